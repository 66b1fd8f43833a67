// The shrinker and the lines of recipes: a planted bug is found among random cases, shrunk to next to nothing, and replayed from its line.
// The planted kernel forgets one key in the backward pass where a block comes from another rank's part.
#include <doctest/doctest.h>

#include <filesystem>
#include <stdlib.h>
#include <unistd.h>

#include "differential.hpp"
#include "draw.hpp"
#include "shrink.hpp"

namespace test_shrink {
namespace {

/// sp::reference, whose backward pass does not see the last of five or more keys in a run.
class forgetful {
public:
  using memory_type = sp::host_memory;
  struct plan {
    sp::reference<>::plan forward, backward;
  };
  using saved = sp::nothing;

  plan prepare(sp::problem p) const {
    auto forward = kernel_.prepare(p);
    for (sp::placed_run& r : p.k)
      if (r.positions.count >= 5) --r.positions.count;
    return {std::move(forward), kernel_.prepare(std::move(p))};
  }
  template <class T>
  saved forward(plan const& p, sp::allocator& a, sp::call_params const& n, sp::view<T const, 3> q,
                std::span<sp::kv_views<T> const> k, sp::attention_state<T> s) const {
    return kernel_.forward<T>(p.forward, a, n, q, k, s);
  }
  template <class T>
  void backward(plan const& p, sp::allocator& a, sp::call_params const& n, std::span<sp::query_grad<T> const> q,
                std::span<sp::key_grad<T> const> k, saved const& x) const {
    kernel_.backward<T>(p.backward, a, n, q, k, x);
  }

private:
  sp::reference<> kernel_;
};

/// The ring's strategies in double, with the planted kernel on more than one rank.
std::string planted(fuzz::recipe r) {
  std::erase_if(r.run, [](fuzz::number s) { return s > fuzz::pass_q; });
  if (r.run.empty() || r.type != 0 || r.softcap > 0 || r.dropout > 0 || r.alibi) return {};
  using T = double;
  conformance::inputs<T> const in(fuzz::trial_of(r, r.run[0]));
  auto run = [](auto& t, auto& i, auto& k, auto& to) {
    if (t.ranks == 1)
      conformance::run<conformance::object_kind::ring>(t, i, k, to);
    else
      conformance::run<conformance::object_kind::ring>(t, i, forgetful(), to);
  };
  return fuzz::differences<T>(r, sp::reference<>{}, in, run);
}

std::string refusal(std::string_view line) {
  try {
    static_cast<void>(fuzz::parse(line));
  } catch (std::invalid_argument const& e) {
    return e.what();
  }
  return {};
}

} // namespace

TEST_CASE("a recipe is the line it prints") {
  for (std::uint64_t seed = 1; seed <= 3000; ++seed) {
    fuzz::recipe const r = fuzz::draw(seed);
    std::string const line = fuzz::line_of(r);
    INFO(line);
    CHECK(fuzz::objection(r).empty());
    CHECK(fuzz::parse(line) == r);
    CHECK(line.find('\n') == line.npos);
  }
  CHECK(fuzz::line_of({}) == "case");
  CHECK(fuzz::parse("case P=3  docs=0,1,9\r").docs == std::vector<fuzz::number>{0, 1, 9});
}

TEST_CASE("a line that is no case is refused with a sentence") {
  CHECK(refusal("P=3") == "case line: it does not begin with 'case'");
  CHECK(refusal("case P") == "case line: no value in 'P'");
  CHECK(refusal("case ranks=3") == "case line: unknown name in 'ranks=3'");
  CHECK(refusal("case P=3x") == "case line: not a number: '3x'");
  CHECK(refusal("case P=99999999999999999999") == "case line: not a number: '99999999999999999999'");
  CHECK(refusal("case P=9") == "case line: P is 1 to 8, and U divides it");
  CHECK(refusal("case P=4 U=3") == "case line: P is 1 to 8, and U divides it");
  CHECK(refusal("case mask=triangle") == "case line: unknown name 'triangle'");
  CHECK(refusal("case docs=1,2 keys=3") == "case line: docs and keys differ in number");
  CHECK(refusal("case padded=2") == "case line: neither 0 nor 1: '2'");
  CHECK(refusal("case loud=nan") == "case line: a factor is out of range");
  CHECK(refusal("case hq=3 hkv=2") == "case line: hkv divides hq, both 1 to 64");
  CHECK(refusal("case run=") == "case line: run names one to six strategies");
  CHECK(refusal("case docs=1999,2000,2000") == "case line: more than 4000 positions");
}

TEST_CASE("shrinking ends at the smallest recipe that fails") {
  auto const big = fuzz::parse("case seed=9 run=rotate,cast,usp P=8 U=4 docs=5,-2,40,0,7 keys=9,3,-4,8,1 mask=window a=9 b=4 "
                               "hq=12 hkv=4 dim=33 vdim=9 loud=20 sinks=1 order=7 end=1 padded=1 shard=zigzag");
  auto const small = fuzz::shrink(big, [](fuzz::recipe const& r) {
    return r.ranks >= 3 && *std::max_element(r.docs.begin(), r.docs.end()) >= 11 && r.q_heads > r.kv_heads &&
           r.mask == fuzz::masks_window;
  });
  INFO(fuzz::line_of(small.smallest));
  CHECK(fuzz::line_of(small.smallest) == "case P=3 docs=11 mask=window hq=2");
  CHECK(small.attempts < 300);
  CHECK(fuzz::shrink(
            big, [](fuzz::recipe const&) { return true; }, 3)
            .attempts == 3); // bounded
  CHECK(fuzz::shrink(big, [](fuzz::recipe const&) { return false; }).smallest == big);
}

TEST_CASE("a planted bug is found, shrunk and replayed from its line") {
  fuzz::recipe found;
  std::uint64_t seed = 1;
  for (; seed < 500 && planted(found).empty(); ++seed) found = fuzz::draw(seed);
  REQUIRE(!planted(found).empty());
  auto const small = fuzz::shrink(found, [](fuzz::recipe const& r) { return !planted(r).empty(); });
  std::string const line = fuzz::line_of(small.smallest);
  MESSAGE("seed " << seed - 1 << " shrunk to '" << line << "' in " << small.attempts << " attempts");

  fuzz::recipe const& r = small.smallest;
  CHECK(r.ranks == 2);
  CHECK(r.run.size() == 1);
  CHECK(fuzz::documents_in(r.docs) == 1);
  CHECK(fuzz::positions_in(r.docs) <= 10); // a rank owns five tokens
  CHECK(r.q_heads == 1);
  CHECK(r.dim == 1);
  CHECK(r.value_dim == 1);
  CHECK(r.loud == 1);

  auto const file = std::filesystem::temp_directory_path() / ("sp_planted_" + std::to_string(::getpid()) + ".txt");
  ::setenv("SP_FUZZ_CORPUS", file.c_str(), 1);
  fuzz::remember(r, planted(r));
  ::unsetenv("SP_FUZZ_CORPUS");
  std::ifstream in(file);
  std::string comment, stored;
  std::getline(in, comment);
  std::getline(in, stored);
  std::filesystem::remove(file);
  CHECK(comment.substr(0, 2) == "# ");
  CHECK(stored == line);
  CHECK(planted(fuzz::parse(stored)) == planted(r)); // the same failure, to the digit
  CHECK(comment == "# " + planted(r));
}

} // namespace test_shrink
