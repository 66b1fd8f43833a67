// What a rank is about to do, as a small list of named values: what check levels 2 and 3 compare across ranks.
// Equal calls have equal records; the record that is sent has one size for all operations, no padding and no pointers.
#pragma once

#include <array>
#include <bit>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include <sp/core/dtype.hpp>
#include <sp/core/error.hpp>
#include <sp/core/index.hpp>

namespace sp {

/// One rank's call as it travels between ranks. A field travels as a digest of its name and 64 bits of value: how both are
/// written is known to the `fingerprint` of every rank that makes the same call.
class call_record {
public:
  static constexpr std::size_t most_fields = 26, operation_characters = 48;

  int rank() const noexcept { return rank_; } ///< as messages name it
  std::string operation() const {
    std::string text;
    for (char c : operation_)
      if (c != 0) text += c;
    return text;
  }
  bool same_operation(call_record const& o) const noexcept { return operation_ == o.operation_; }
  /// The same fields in the same order, with the same values.
  bool same_call(call_record const& o) const noexcept {
    return same_operation(o) && fields_ == o.fields_ && names_ == o.names_ && values_ == o.values_;
  }

  /// This rank's own checks have failed: the others will throw with it.
  bool refused() const noexcept { return status_ != 0; }
  std::string refusal() const { return status_ - 1 >= detail::errc_count ? "an exception" : name(errc(status_ - 1)); }

  std::size_t fields() const noexcept { // no more than there are, also where a transport lies
    auto const n = std::size_t(fields_);
    return n < most_fields ? n : most_fields;
  }
  /// The value of the field with this name; nullptr where it was not given.
  std::uint64_t const* find(std::string_view field) const noexcept {
    std::uint32_t const sought = digest_of_name(field);
    for (std::size_t k = 0; k < fields(); ++k)
      if (names_[k] == sought) return &values_[k];
    return nullptr;
  }

private:
  friend class fingerprint;
  static constexpr std::uint64_t other_exception = ~std::uint64_t{0}; ///< a refusal that is no sp::error

  /// FNV-1a: a call has two dozen fields at most, so 32 bits tell their names apart.
  static constexpr std::uint32_t digest_of_name(std::string_view text) noexcept {
    std::uint32_t d = 0x811c9dc5u;
    for (char c : text) d = (d ^ static_cast<unsigned char>(c)) * 0x01000193u;
    return d;
  }

  std::int32_t rank_ = -1, fields_ = 0;
  std::uint64_t status_ = 0; ///< 0, or why this rank refused
  std::array<char, operation_characters> operation_{};
  std::array<std::uint32_t, most_fields> names_{};
  std::array<std::uint64_t, most_fields> values_{};
};
static_assert(std::is_trivially_copyable_v<call_record> && std::has_unique_object_representations_v<call_record>);

/// A call_record with what this rank needs to tell a difference in words. The caller names the fields and lists them in the order
/// in which a difference is to be named: what comes first explains what comes behind it. Names and words are literals.
class fingerprint {
public:
  using record_type = call_record;
  using word_list = std::span<char const* const>;

  fingerprint() = default;
  /// The operation "<object><call>", cut at 48 characters; `rank` is how messages name this rank.
  fingerprint(std::string_view object, std::string_view call, int rank) {
    record_.rank_ = rank;
    std::size_t at = 0;
    for (std::string_view part : {object, call})
      for (char c : part)
        if (at < call_record::operation_characters) record_.operation_[at++] = c;
  }

  /// A whole number.
  template <class T>
  requires std::is_integral_v<T> fingerprint& number(char const* field, T value) {
    return add(field, {std::is_signed_v<T> ? writing::number : writing::natural, {}}, static_cast<std::uint64_t>(value));
  }
  /// A digest, written as its last digits; 0 is "none".
  fingerprint& hash(char const* field, std::uint64_t value) { return add(field, {writing::hash, {}}, value); }
  fingerprint& real(char const* field, double value) {
    return add(field, {writing::real, {}}, std::bit_cast<std::uint64_t>(value));
  }
  /// A value that is written as words[value]: an enumerator, or a bool.
  template <class T>
    requires(std::is_enum_v<T> || std::is_integral_v<T>)
  fingerprint& word(char const* field, T value, word_list words) {
    return add(field, {writing::word, words}, static_cast<std::uint64_t>(value));
  }
  /// A value that each of several nested objects has, in one field: the second call appends to what the first one wrote.
  template <class T>
    requires(std::is_enum_v<T> || std::is_integral_v<T>)
  fingerprint& next_word(char const* field, T value, word_list words) {
    std::uint64_t const* at = record_.find(field);
    if (!at || styles_[std::size_t(at - record_.values_.data())].how != writing::words) {
      add(field, {writing::words, words}, 0);
      at = &record_.values_[fields() - 1];
    }
    std::uint64_t& all = record_.values_[std::size_t(at - record_.values_.data())];
    all = all * (words.size() + 1) + 1 + static_cast<std::uint64_t>(value); // no digit is 0: one word more is another number
    return *this;
  }
  /// The same for whole numbers from 1 on; all that are too large for a field are one.
  fingerprint& next_number(char const* field, index_t value) {
    std::uint64_t const* at = record_.find(field);
    if (!at) {
      add(field, {writing::numbers, {}}, 0);
      at = &record_.values_[fields() - 1];
    }
    std::uint64_t& all = record_.values_[std::size_t(at - record_.values_.data())];
    all = all * numbers_base + std::uint64_t(min(value, index_t(numbers_base - 1)));
    return *this;
  }
  /// An element type.
  template <class T>
  fingerprint& element(char const* field) {
    return add(field, {writing::element, {}}, element_number<T>());
  }

  /// This rank's own checks have failed: the others will throw with it.
  void refuse(errc code) noexcept { record_.status_ = 1 + std::uint64_t(code); }
  void refuse() noexcept { record_.status_ = call_record::other_exception; } ///< for a reason that is no sp::error

  call_record const& record() const noexcept { return record_; }
  std::size_t fields() const noexcept { return record_.fields(); }
  /// The name of field k, in the order of adding.
  char const* name_of(std::size_t k) const noexcept { return names_[k]; }
  /// A value of field k, this rank's or another's, as a reader knows it.
  std::string text_of(std::size_t k, std::uint64_t const* value) const {
    return value ? text_of(styles_[k], *value) : "not given";
  }

private:
  enum class writing { number, numbers, natural, hash, real, word, words, element };
  static constexpr std::uint64_t numbers_base = std::uint64_t(1) << 16;
  struct style {
    writing how = writing::number;
    word_list words{};
  };

  fingerprint& add(char const* field, style how, std::uint64_t value) {
    std::size_t const k = record_.fields();
    if (k == call_record::most_fields || record_.find(field))
      fail({errc::bad_state,
            "field \"" + std::string(field) + "\" of " + record_.operation() + " comes twice, or is one too many for " +
                std::to_string(call_record::most_fields),
            "Compare each field once, or raise sp::call_record::most_fields"});
    names_[k] = field;
    styles_[k] = how;
    record_.names_[k] = call_record::digest_of_name(field);
    record_.values_[k] = value;
    ++record_.fields_;
    return *this;
  }

  /// A number for an element type: its kind, then its bytes.
  template <class T>
  static constexpr std::uint64_t element_number() {
    std::uint64_t kind = 5;
    if constexpr (std::is_floating_point_v<T>) kind = 0;
    if constexpr (std::is_same_v<T, bf16>) kind = 1;
    if constexpr (std::is_same_v<T, fp16>) kind = 2;
    if constexpr (std::is_integral_v<T>) kind = std::is_signed_v<T> ? 3 : 4;
    return kind * 65536 + sizeof(T);
  }
  static std::string element_text(std::uint64_t v) {
    char const* const kinds[] = {"float", "bf16 of ", "fp16 of ", "int", "uint", "something of "};
    std::uint64_t const kind = v / 65536 < 5 ? v / 65536 : 5, bytes = v % 65536;
    bool const in_bits = kind == 0 || kind == 3 || kind == 4;
    return kinds[kind] + std::to_string(in_bits ? bytes * 8 : bytes) + (in_bits ? "" : " bytes");
  }
  static std::string hash_text(std::uint64_t v) {
    std::string text = "#";
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[v >> shift & 15];
    return v == 0 ? "none" : text;
  }
  static std::string text_of_numbers(std::uint64_t v) {
    std::string text;
    for (; v > 0; v /= numbers_base) {
      std::string first = std::to_string(v % numbers_base);
      if (!text.empty()) first.append(", ").append(text);
      text = std::move(first);
    }
    return text;
  }
  static std::string text_of_words(word_list words, std::uint64_t v) {
    std::uint64_t const base = words.size() + 1;
    std::string text;
    for (; v > 0; v /= base) {
      if (!text.empty()) text.insert(0, ", ");
      text.insert(0, v % base > 0 ? words[v % base - 1] : "?"); // the last word is the lowest digit
    }
    return text;
  }
  static std::string text_of(style const& s, std::uint64_t v) {
    switch (s.how) {
    case writing::number:
      return std::to_string(static_cast<std::int64_t>(v));
    case writing::numbers:
      return text_of_numbers(v);
    case writing::natural:
      return std::to_string(v);
    case writing::hash:
      return hash_text(v);
    case writing::real:
      return std::to_string(std::bit_cast<double>(v));
    case writing::word:
      return v < s.words.size() ? s.words[v] : std::to_string(v);
    case writing::words:
      return text_of_words(s.words, v);
    case writing::element:
      break;
    }
    return element_text(v);
  }

  call_record record_;
  std::array<char const*, call_record::most_fields> names_{};
  std::array<style, call_record::most_fields> styles_{};
};

} // namespace sp
