// What a rank is about to do, as a small list of named numbers: what check levels 2 and 3 compare across ranks.
// Equal calls have equal fingerprints; digests stand for documents, masks and shardings. Every word is sent, none is padding.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <string>
#include <string_view>
#include <type_traits>

#include <sp/core/dtype.hpp>
#include <sp/core/error.hpp>
#include <sp/core/index.hpp>

namespace sp {

/// What is compared, in the order in which a difference is named: what comes first explains what comes behind it.
enum class field : std::size_t {
  level,        ///< attention_options::checks
  call,         ///< which checked call with this prepared geometry it is
  forward_call, ///< backward: which call made the `saved` it consumes
  element,      ///< element type
  q_heads,      ///< global
  kv_heads,     ///< global
  dim,          ///< of q and k
  value_dim,    ///< of v and out
  q_documents,  ///< digest of the documents of the queries
  k_documents,  ///< of the keys
  q_sharding,   ///< digest of the runs of all ranks
  k_sharding,   ///< of the keys
  tokens,       ///< digest of the tokens, if the batch was given one
  mask,         ///< digest of the rule
  scale,        ///< softmax scale
  schedule,     ///< of a ring
  head_groups,  ///< of a gathering ring
  keep,         ///< what Ulysses keeps
  sinks,        ///< given or not
  accumulate,   ///< gradients are added or overwritten
  features,     ///< digest of the kernel's features
  random,       ///< digest of the random key, where the kernel draws numbers
  reduction,    ///< of a loss
  divide,       ///< of a loss
  ignore_index, ///< of a loss
  contract,     ///< of a loss: the factor of its gradients
  row_shape,    ///< digest of the extents behind the rows
  to_sharding,  ///< of the layout a relayout leads to
  map,          ///< digest of a relayout's map
  count
};

namespace detail {

/// How the values of a field are written.
enum class field_kind { number, hash, real, element, schedule, keep, given, switched, reduction, divide };
struct field_text {
  char const* name;
  field_kind kind = field_kind::number;
};
inline constexpr field_text field_texts[] = {{"check level"},
                                             {"call number"},
                                             {"number of the forward call"},
                                             {"element type", field_kind::element},
                                             {"q heads"},
                                             {"kv heads"},
                                             {"dim"},
                                             {"value dim"},
                                             {"documents", field_kind::hash},
                                             {"key documents", field_kind::hash},
                                             {"sharding", field_kind::hash},
                                             {"key sharding", field_kind::hash},
                                             {"tokens", field_kind::hash},
                                             {"mask", field_kind::hash},
                                             {"scale", field_kind::real},
                                             {"schedule", field_kind::schedule},
                                             {"head groups"},
                                             {"keep", field_kind::keep},
                                             {"sinks", field_kind::given},
                                             {"accumulate", field_kind::switched},
                                             {"kernel features", field_kind::hash},
                                             {"random key", field_kind::hash},
                                             {"reduction", field_kind::reduction},
                                             {"divide", field_kind::divide},
                                             {"ignore_index"},
                                             {"gradient contract", field_kind::real},
                                             {"row shape", field_kind::hash},
                                             {"sharding moved to", field_kind::hash},
                                             {"map", field_kind::hash}};
static_assert(std::size(field_texts) == std::size_t(field::count));

/// A number for an element type: its kind, then its bytes.
template <class T>
constexpr std::uint64_t element_number() {
  std::uint64_t kind = 5;
  if constexpr (std::is_floating_point_v<T>) kind = 0;
  if constexpr (std::is_same_v<T, bf16>) kind = 1;
  if constexpr (std::is_same_v<T, fp16>) kind = 2;
  if constexpr (std::is_integral_v<T>) kind = std::is_signed_v<T> ? 3 : 4;
  return kind * 65536 + sizeof(T);
}

inline std::string value_text(field_kind kind, std::uint64_t v) {
  auto word = [&](std::initializer_list<char const*> words) {
    return v < words.size() ? std::string(words.begin()[v]) : std::to_string(v);
  };
  switch (kind) {
  case field_kind::number:
    return std::to_string(static_cast<std::int64_t>(v));
  case field_kind::real:
    return std::to_string(std::bit_cast<double>(v));
  case field_kind::schedule:
    return word({"automatic", "rotate", "gather", "pull"});
  case field_kind::keep:
    return word({"nothing", "heads", "output"});
  case field_kind::given:
    return word({"none", "given"});
  case field_kind::switched:
    return word({"off", "on"});
  case field_kind::reduction:
    return word({"sum", "mean"});
  case field_kind::divide:
    return word({"now", "later"});
  case field_kind::element: {
    char const* const kinds[] = {"float", "bf16 of ", "fp16 of ", "int", "uint", "something of "};
    std::uint64_t const kind_of = min(index_t(v / 65536), 5), bytes = v % 65536;
    bool const in_bits = kind_of == 0 || kind_of == 3 || kind_of == 4;
    return kinds[kind_of] + std::to_string(in_bits ? bytes * 8 : bytes) + (in_bits ? "" : " bytes");
  }
  case field_kind::hash:
    break;
  }
  std::string text = "#";
  for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[v >> shift & 15];
  return v == 0 ? "none" : text;
}

} // namespace detail

/// One rank's view of a call: a fixed list of 64-bit words, the same for every operation, so that operations can be told apart.
class fingerprint {
public:
  static constexpr std::size_t name_words = 6;

  fingerprint() = default;
  /// The operation "<object><call>", cut at 48 characters; `rank` is how messages name this rank.
  fingerprint(std::string_view object, std::string_view call, int rank) : rank_(std::uint64_t(rank)) {
    std::size_t at = 0;
    for (std::string_view part : {object, call})
      for (char c : part)
        if (at < name_words * 8) {
          name_[at / 8] |= std::uint64_t(static_cast<unsigned char>(c)) << (at % 8 * 8);
          ++at;
        }
  }

  template <class T>
    requires(std::is_integral_v<T> || std::is_enum_v<T>)
  fingerprint& set(field f, T value) {
    fields_[std::size_t(f)] = static_cast<std::uint64_t>(value);
    return *this;
  }
  fingerprint& set(field f, double value) { return set(f, std::bit_cast<std::uint64_t>(value)); }
  std::uint64_t operator[](field f) const { return fields_[std::size_t(f)]; }

  /// This rank's own checks have failed: the others will throw with it.
  void refuse(errc code) { status_ = 1 + std::uint64_t(code); }
  void refuse() { status_ = ~std::uint64_t{0}; } ///< for a reason that is no sp::error
  bool refused() const { return status_ != 0; }
  std::string refusal() const { return status_ == ~std::uint64_t{0} ? "an exception" : name(errc(status_ - 1)); }

  int rank() const { return int(rank_); }
  std::string operation() const {
    std::string text;
    for (std::size_t i = 0; i < name_words * 8; ++i)
      if (char const c = char(name_[i / 8] >> (i % 8 * 8) & 255)) text += c;
    return text;
  }
  bool same_operation(fingerprint const& o) const { return name_ == o.name_; }
  bool same_call(fingerprint const& o) const { return same_operation(o) && fields_ == o.fields_; }

private:
  std::uint64_t rank_ = 0, status_ = 0;
  std::array<std::uint64_t, name_words> name_{};
  std::array<std::uint64_t, std::size_t(field::count)> fields_{};
};
static_assert(std::is_trivially_copyable_v<fingerprint> && sizeof(fingerprint) % 8 == 0);

} // namespace sp
