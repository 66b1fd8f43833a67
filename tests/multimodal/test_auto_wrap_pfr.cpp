// Plain aggregates whose fields are found through Boost.PFR: nested, in containers, behind pointers, beside types with members().
// needs: pfr
// flags: -O0
#include <doctest/doctest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sp/auto_wrap_pfr.hpp>

namespace test_auto_wrap_pfr {
namespace {

using text_slot = sp::attention_slot<sp::text_role, double>;
using vision_slot = sp::attention_slot<sp::vision_role, double>;

struct norm {
  std::vector<double> weights{};
  double epsilon = 1e-5;
};
struct layer {
  norm before{};
  text_slot attend{{.q_heads = 4, .kv_heads = 2}};
  std::vector<double> weights{};
};
struct block { // has a say of its own
  vision_slot attend{{.q_heads = 3}};
  vision_slot hidden{};
};
auto members(block& b) { return sp::parts("attend", b.attend); }
struct model {
  std::string name{};
  std::vector<layer> layers{};
  std::unique_ptr<block> tower{};
  std::optional<layer> extra{};
  model* parent = nullptr;
};
struct point {
  float x = 0, y = 0;
};
struct no_slots {
  std::vector<point> points{};
  norm of{};
  no_slots* next = nullptr;
};
static_assert(sp::detail::may_hold<model>() && sp::detail::may_hold<layer>());
static_assert(!sp::detail::may_hold<norm>() && !sp::detail::may_hold<no_slots>() && !sp::detail::may_hold<std::vector<point>>());

TEST_CASE("fields of plain aggregates are parts") {
  model m;
  m.layers.resize(2);
  m.tower = std::make_unique<block>();
  m.parent = &m;
  std::vector<std::string> taken;
  auto const before = sp::inspect(m);
  for (auto const& p : before.parts)
    if (p.taken) taken.push_back(p.path);
  CHECK(taken == std::vector<std::string>{"field 1[0].field 1", "field 1[1].field 1", "field 2.attend"});
  REQUIRE(before.at("field 3"));
  CHECK(before.at("field 3")->why_not == "it is null or empty");
  CHECK(before.at("field 4")->why_not == "it is the same object as the model");
  CHECK(before.at("field 0") == nullptr); // what can hold no slot is no part
  sp::auto_wrap(m, sp::solo{}, sp::reference{});
  CHECK(m.layers[1].attend.seated().wrapped);
  CHECK(m.tower->attend.seated().wrapped);
  CHECK_FALSE(m.tower->hidden.seated().wrapped);
}

} // namespace
} // namespace test_auto_wrap_pfr
