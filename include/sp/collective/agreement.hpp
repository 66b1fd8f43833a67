// Ranks compare what they are about to do: one small all-gather of a fingerprint, then all of them go on or all of them throw.
// The error names the field, the values, the majority and the ranks that differ from it; nobody waits for a deadline.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sp/collective/operations.hpp>
#include <sp/core/dtype.hpp>

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
    std::uint64_t const kind_of = min(index(v / 65536), 5), bytes = v % 65536;
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

private:
  std::uint64_t rank_ = 0, status_ = 0;
  std::array<std::uint64_t, name_words> name_{};
  std::array<std::uint64_t, std::size_t(field::count)> fields_{};
};
static_assert(std::is_trivially_copyable_v<fingerprint> && sizeof(fingerprint) % 8 == 0);

namespace detail {

/// "rank 2", "ranks 0, 1, 3", "ranks 0, 1, ... (62 ranks)".
inline std::string rank_list(std::vector<int> const& ranks) {
  constexpr std::size_t most = 8;
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < std::min(ranks.size(), most); ++i) text += (i ? ", " : "") + std::to_string(ranks[i]);
  return ranks.size() > most ? text + ", ... (" + std::to_string(ranks.size()) + " ranks)" : text;
}

/// Ranks that hold the same value, the largest group first.
struct camp {
  std::string value;
  std::vector<int> ranks;
};
template <class Same, class Text>
std::vector<camp> camps(std::span<fingerprint const> all, Same same, Text text) {
  std::vector<camp> list;
  std::vector<std::size_t> first; // of each camp
  for (std::size_t i = 0; i < all.size(); ++i) {
    std::size_t c = 0;
    while (c < first.size() && !same(all[first[c]], all[i])) ++c;
    if (c == first.size()) {
      first.push_back(i);
      list.push_back({text(all[i]), {}});
    }
    list[c].ranks.push_back(all[i].rank());
  }
  std::stable_sort(list.begin(), list.end(), [](camp const& a, camp const& b) { return a.ranks.size() > b.ranks.size(); });
  return list;
}

[[noreturn]] inline void fail_mismatch(std::string problem, char const* remedy, fingerprint const& mine, std::size_t size,
                                       int peer) {
  error_info info{errc::rank_mismatch, std::move(problem), remedy};
  info.rank = mine.rank();
  info.size = int(size);
  info.peer = peer;
  fail(std::move(info));
}

/// The difference in one thing, told by its camps.
[[noreturn]] inline void fail_camps(char const* what, std::vector<camp> const& list, std::string const& also,
                                    fingerprint const& mine, std::size_t size) {
  bool const majority = list[0].ranks.size() > list[1].ranks.size();
  std::string problem;
  if (list.size() == 2 && majority) {
    camp const& few = list[1];
    problem = rank_list(few.ranks) + (few.ranks.size() == 1 ? " differs from " : " differ from ") + rank_list(list[0].ranks) +
              " in " + what + ": " + few.value + " against " + list[0].value;
  } else {
    problem = std::string(what) + " is not the same on all ranks: ";
    for (std::size_t c = 0; c < list.size(); ++c) problem += (c ? "; " : "") + list[c].value + " on " + rank_list(list[c].ranks);
  }
  auto holds = [&](camp const& c) { return std::find(c.ranks.begin(), c.ranks.end(), mine.rank()) != c.ranks.end(); };
  camp const& others = list[holds(list[1]) ? 0 : 1];
  fail_mismatch(problem + also,
                "Give every rank the same arguments, options and batches, and call the same operations in the same order", mine,
                size, others.ranks[0]);
}

/// Throws rank_mismatch unless all agree. A rank that refused the call itself returns: it has an error of its own to throw.
inline void judge(std::span<fingerprint const> all, fingerprint const& mine) {
  if (mine.refused()) return;
  std::string refusals;
  int refuser = -1;
  for (fingerprint const& f : all)
    if (f.refused()) {
      refusals += (refusals.empty() ? "rank " : ", rank ") + std::to_string(f.rank()) + " refused " + f.operation() + " with " +
                  f.refusal();
      if (refuser < 0) refuser = f.rank();
    }
  if (refuser >= 0)
    fail_mismatch(std::move(refusals), "Look at the error of that rank; nothing was sent", mine, all.size(), refuser);
  auto differs = [&](std::size_t k) {
    return std::any_of(all.begin(), all.end(), [&](fingerprint const& f) { return f[field(k)] != mine[field(k)]; });
  };
  if (std::any_of(all.begin(), all.end(), [&](fingerprint const& f) { return !f.same_operation(mine); }))
    fail_camps("operation",
               camps(
                   all, [](fingerprint const& a, fingerprint const& b) { return a.same_operation(b); },
                   [](fingerprint const& f) { return f.operation(); }),
               "", mine, all.size());
  for (std::size_t k = 0; k < std::size_t(field::count); ++k) {
    if (!differs(k)) continue;
    std::string also;
    for (std::size_t later = k + 1; later < std::size_t(field::count); ++later)
      if (differs(later)) also += (also.empty() ? " (also in " : ", ") + std::string(field_texts[later].name);
    if (!also.empty()) also += ")";
    fail_camps(field_texts[k].name,
               camps(
                   all, [k](fingerprint const& a, fingerprint const& b) { return a[field(k)] == b[field(k)]; },
                   [k](fingerprint const& f) { return value_text(field_texts[k].kind, f[field(k)]); }),
               also, mine, all.size());
  }
}

/// The fingerprints of ranks that are spread over one group or over nested groups (a mesh): gathered one group after the other.
class agreement {
public:
  agreement(fingerprint const& mine, index ranks, allocator& scratch) : scratch_(scratch), all_(scratch, {ranks}), mine_(mine) {
    all_.tensor(0) = mine;
  }

  /// After it every rank of `comm` holds what any of them held before.
  template <communicator C>
  void gather(C const& comm, char const* primitive) {
    static_assert(std::is_same_v<typename C::memory_type, host>,
                  "sp: check levels 2 and 3 send fingerprints from host memory, which this communicator does not read");
    index const n = comm.size(), me = comm.rank();
    if (n == 1) return;
    auto part = [&](index r) { return all_.tensor.slice(0, r * have_, have_); };
    if (me > 0) std::copy_n(part(0).data, have_, part(me).data);
    parcel_builder receives(scratch_, n, n);
    for (index r = 0; r < n; ++r) {
      receives.open(int(r));
      if (r != me) receives.add(part(r));
    }
    piece const sent = as_piece(part(me));
    sp::all_gather_v(comm, primitive, {&sent, 1}, receives.parcels(), scratch_).wait();
    have_ *= n;
  }
  void judge() const { detail::judge({all_.tensor.data, std::size_t(have_)}, mine_); }

private:
  allocator& scratch_;
  owned<fingerprint, 1> all_;
  fingerprint const& mine_;
  index have_ = 1;
};

} // namespace detail

/// What ledgers and errors of a transport call the messages of an agreement.
inline constexpr char const* agreement_primitive = "check";

/// Compares everybody's `mine` and returns if they agree; otherwise every rank throws rank_mismatch. Blocking; one all-gather of
/// sizeof(fingerprint) bytes per rank. A rank whose fingerprint has refused() returns and throws its own error next, the others
/// throw now. Nothing is left half done: after a rank_mismatch of this kind the communicator can be used on.
template <communicator C>
void agree(C const& comm, fingerprint const& mine, allocator& scratch, char const* primitive = agreement_primitive) {
  detail::agreement all(mine, comm.size(), scratch);
  all.gather(comm, primitive);
  all.judge();
}

/// Bytes an agreement over `ranks` ranks takes from its allocator, in one group or in nested ones.
inline index agreement_scratch(index ranks) {
  byte_counter c;
  owned<fingerprint, 1> all(c, {ranks});
  parcel_builder receives(c, ranks, ranks);
  return c.bytes() + all_gather_scratch(int(ranks));
}

namespace detail {

/// Runs `local`, the checks of this rank alone, then `compare(fingerprint)`, in which all ranks take part, whatever became of
/// `local`. In programs without exceptions, or whose error handler ends the process, a rank that fails locally takes part in
/// nothing.
template <class Local, class Compare>
void check_together(fingerprint& f, Local&& local, Compare&& compare) {
#if defined(__cpp_exceptions)
  auto tell = [&] {
    try {
      compare(f);
    } catch (...) { // the rank's own failure is the one to report
    }
  };
  try {
    local();
  } catch (error const& e) {
    f.refuse(e.code());
    tell();
    throw;
  } catch (...) {
    f.refuse();
    tell();
    throw;
  }
#else
  local();
#endif
  compare(f);
}

/// Levels are 0, 1, 2 and 3.
inline int check_level(int level, char const* primitive, int rank, int size) {
  if (level < 0 || level > 3)
    fail({errc::bad_state, "check level " + std::to_string(level),
          "0 none, 1 local arguments, 2 also compares the ranks, 3 also looks for NaN, infinities and writes outside of blocks",
          primitive, rank, size});
  return level;
}

} // namespace detail
} // namespace sp
