// What is found in models of many shapes, and why something is not taken: parts by name, nested, in containers and behind pointers, foreign
// types through their role, one object by several ways. Each refusal of auto_wrap is one sentence, compared as it is.
#include <doctest/doctest.h>

#include <array>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include <sp/auto_wrap.hpp>
#include <sp/threads.hpp>

#include "support/failure.hpp"

namespace test_inspect_foreign { // somebody else's library: it knows nothing of sp
struct head {
  sp::attention_slot<sp::vision_role, double>* seat = nullptr;
};
struct tower {
  std::vector<head> heads;
};
struct linear {
  std::vector<double> weights;
};
struct projector {
  linear first, second;
};
struct resampler {
  projector inner;
  sp::attention_slot<sp::vision_role, double> attend;
};
} // namespace test_inspect_foreign

template <>
struct sp::role<test_inspect_foreign::head> {
  using type = sp::vision_role;
  static auto& slot(test_inspect_foreign::head& h) { return *h.seat; }
};
template <>
struct sp::role<test_inspect_foreign::tower> {
  using type = sp::vision_role;
  static auto members(test_inspect_foreign::tower& t) { return sp::parts("heads", t.heads); }
};
template <>
struct sp::role<test_inspect_foreign::projector> {
  using type = sp::projection_role;
};
template <>
struct sp::role<test_inspect_foreign::resampler> {
  using type = sp::projection_role;
  static auto members(test_inspect_foreign::resampler& r) { return sp::parts("inner", r.inner, "attend", r.attend); }
};

namespace test_inspect {
namespace {

using sp::errc;
using support::failure_of;
using support::says;
using text_slot = sp::attention_slot<sp::text_role, double>;
using vision_slot = sp::attention_slot<sp::vision_role, double>;

/// On a single rank; a thread, so that what is instantiated is shared with other sources.
template <class Model>
void wrap(Model& m) {
  sp::threads::run(1, [&](sp::threads const& comm) { CHECK(&sp::auto_wrap(m, comm, sp::reference{}) == &m); });
}

struct layer {
  text_slot attend{{.q_heads = 4, .kv_heads = 2}};
};
auto members(layer& l) { return sp::parts("attend", l.attend); }

/// Paths of what is taken, in order.
template <class Model>
std::vector<std::string> taken(Model& m) {
  std::vector<std::string> paths;
  for (auto const& p : sp::inspect(m).parts)
    if (p.taken) paths.push_back(p.path);
  return paths;
}
template <class Model>
std::string why_not(Model& m, std::string_view path) {
  auto const report = sp::inspect(m);
  auto const* p = report.at(path);
  return p ? p->why_not : "not met";
}
using paths = std::vector<std::string>;

struct containers {
  std::vector<layer> list = std::vector<layer>(2);
  std::array<layer, 1> fixed{};
  layer plain_array[2]{};
  std::deque<layer> queue = std::deque<layer>(1);
  std::list<std::unique_ptr<layer>> linked{};
  std::optional<layer> some = layer{}, none{};
  std::unique_ptr<layer> owned = std::make_unique<layer>(), empty{};
  std::shared_ptr<layer> shared = std::make_shared<layer>();
  layer *raw = nullptr, *to_list = &list[1];
  std::vector<std::vector<layer>> nested{2};
};
auto members(containers& c) {
  return sp::parts("list", c.list, "fixed", c.fixed, "plain_array", c.plain_array, "queue", c.queue, "linked", c.linked, "some",
                   c.some, "none", c.none, "owned", c.owned, "empty", c.empty, "shared", c.shared, "raw", c.raw, "to_list",
                   c.to_list, "nested", c.nested);
}

TEST_CASE("vectors, arrays, optionals and pointers are walked, and each object is taken once") {
  containers c;
  c.linked.push_back(std::make_unique<layer>());
  c.nested[1].resize(1);
  CHECK(taken(c) == paths{"list[0].attend", "list[1].attend", "fixed[0].attend", "plain_array[0].attend", "plain_array[1].attend",
                          "queue[0].attend", "linked[0].attend", "some.attend", "owned.attend", "shared.attend",
                          "nested[1][0].attend"});
  CHECK(why_not(c, "none") == "it is null or empty");
  CHECK(why_not(c, "empty") == "it is null or empty");
  CHECK(why_not(c, "raw") == "it is null or empty");
  CHECK(why_not(c, "to_list") == "it is the same object as list[1]");
  CHECK(sp::inspect(c).count("text") == 11);
  CHECK(sp::inspect(c).count("vision") == 0);
}

TEST_CASE("a shared object is filled once, by whichever way it is reached") {
  auto const a = std::make_shared<layer>();
  std::vector parts{a, a};
  CHECK(taken(parts) == paths{"[0].attend"});
  CHECK(why_not(parts, "[1]") == "it is the same object as [0]");
  wrap(parts);
  CHECK(a->attend.seated().wrapped);
}

struct node {
  layer mine;
  node* parent = nullptr;
  std::vector<std::unique_ptr<node>> children{};
};
auto members(node& n) { return sp::parts("mine", n.mine, "parent", n.parent, "children", n.children); }

TEST_CASE("modules may point back to those above them") {
  node root;
  root.children.push_back(std::make_unique<node>());
  root.children[0]->parent = &root;
  CHECK(taken(root) == paths{"mine.attend", "children[0].mine.attend"});
  CHECK(why_not(root, "children[0].parent") == "it is the same object as the model");
}

struct decoder {
  std::vector<layer> layers = std::vector<layer>(3);
  std::vector<float> embedding = std::vector<float>(8);
};
struct vision_block {
  vision_slot attend{{.q_heads = 6, .prefix = 1}};
};
struct whole_model {
  struct {
    std::vector<vision_block> blocks = std::vector<vision_block>(2);
  } vision;
  decoder text;
};
auto members(decoder& d) { return sp::parts("layers", d.layers, "embedding", d.embedding); }
auto members(vision_block& b) { return sp::parts("attend", b.attend); }
auto members(whole_model& m) { return sp::parts("vision.blocks", m.vision.blocks, "text", m.text); }

TEST_CASE("a report has roles, names, heads and counts, before and after") {
  whole_model m;
  auto const before = sp::inspect(m);
  CHECK(before.count("text") == 3);
  CHECK(before.count("vision") == 2);
  CHECK(before.taken() == 5);
  REQUIRE(before.at("vision.blocks[1].attend"));
  CHECK(before.at("vision.blocks[1].attend")->q_heads == 6);
  CHECK(before.at("vision.blocks[1].attend")->kv_heads == 6);
  CHECK(before.at("vision.blocks[1].attend")->prefix == 1);
  CHECK(before.at("vision.blocks[1].attend")->holds == "one rank");
  CHECK(before.at("nothing") == nullptr);
  wrap(m);
  m.text.layers.resize(1);
  CHECK(
      sp::inspect(m).text() ==
      "vision.blocks[0].attend: vision attention slot, 6 q heads and 6 kv heads, 1 prefix token a document, holds vit_attention\n"
      "vision.blocks[1].attend: vision attention slot, 6 q heads and 6 kv heads, 1 prefix token a document, holds vit_attention\n"
      "text.layers[0].attend: text attention slot, 4 q heads and 2 kv heads, holds ring_attention\n"
      "text.embedding: part; not taken: no slot can be in it: it has neither members() nor a role\n"
      "taken: 2 of vision, 1 of text\n");
}

struct half_const {
  layer mine;
  text_slot const* reader = &mine.attend;
  layer const* other_reader = &mine;
  std::tuple<int, std::vector<layer>> both{};
  std::vector<std::variant<int, layer>> either = std::vector<std::variant<int, layer>>(1);
};
auto members(half_const& h) {
  return sp::parts("reader", h.reader, "other_reader", h.other_reader, "mine", h.mine, "both", h.both, "either", h.either);
}

TEST_CASE("what is const is passed over, unless it is reached by another way; so is what the walk does not open") {
  half_const h;
  CHECK(taken(h) == paths{"mine.attend"});
  CHECK(why_not(h, "reader") == "it is const");
  CHECK(why_not(h, "other_reader") == "it is const");
  for (char const* path : {"both", "either"})
    CHECK(why_not(h, path) == "sp walks no maps, tuples and variants: name what is in it in members()");
}

TEST_CASE("text-only models, and a slot or a list of slots that is the model") {
  decoder d;
  CHECK(taken(d) == paths{"layers[0].attend", "layers[1].attend", "layers[2].attend"});
  text_slot alone;
  CHECK(taken(alone) == paths{"model"});
  std::vector<text_slot> list(2);
  CHECK(taken(list) == paths{"[0]", "[1]"});
  wrap(list);
  CHECK(list[1].seated().wrapped);
  text_slot const constant;
  CHECK(why_not(constant, "model") == "it is const");
}

using test_inspect_foreign::head;
using test_inspect_foreign::projector;
using test_inspect_foreign::resampler;
using test_inspect_foreign::tower;

struct with_foreign {
  vision_slot seats[2]{};
  tower vision{{head{&seats[0]}, head{&seats[1]}}};
  resampler connector;
  projector second;
  layer text;
};
auto members(with_foreign& m) {
  return sp::parts("vision", m.vision, "connector", m.connector, "second", m.second, "text", m.text);
}

TEST_CASE("foreign types are found by their role, and only the outermost projection is taken") {
  with_foreign m;
  CHECK(taken(m) == paths{"vision.heads[0]", "vision.heads[1]", "connector", "connector.attend", "second", "text.attend"});
  CHECK(why_not(m, "connector.inner") == "it is inside of connector, which is taken as a whole");
  CHECK(sp::inspect(m).count("projection") == 2);
  CHECK(sp::inspect(m).count("vision") == 3);
  CHECK(sp::inspect(m).text().find("\nsecond: projection\n") != std::string::npos); // once, though role and part have one name
}

template <class Model>
std::string sentence(Model& m) {
  auto const e = failure_of([&] { return wrap(m), 0; });
  CHECK(e.code == errc::bad_state);
  CHECK(e.primitive == "auto_wrap");
  CHECK(e.rank == 0);
  return e.problem + ". " + e.remedy;
}

TEST_CASE("a projection needs a splice, and nothing is changed before that is said") {
  with_foreign m;
  CHECK(sentence(m) ==
        "projection connector needs a splice: this model has no sp::fusion_slot, which says where visual rows go. Give "
        "the model an sp::fusion_slot with one of sp::splice and name it in members(model); or, if it calls sp::fusion "
        "itself, take the role from the projection");
  CHECK_FALSE(m.text.attend.seated().wrapped);
}

struct other_attention {
  void forward() const {}
};
struct hidden {
  other_attention a, b;
  std::map<int, layer> by_number;
  std::unique_ptr<layer> late;
  std::vector<layer> empty;
};
auto members(hidden& h) { return sp::parts("a", h.a, "b", h.b, "by_number", h.by_number, "late", h.late, "empty", h.empty); }

TEST_CASE("where nothing is found the sentence says what was looked at") {
  hidden m;
  CHECK(sentence(m) ==
        "nothing to wrap was found in this model (a: no slot can be in it: it has neither members() nor a role; b: no "
        "slot can be in it: it has neither members() nor a role; by_number: sp walks no maps, tuples and variants: name "
        "what is in it in members(); and 1 more). Call its attention through an sp::attention_slot<role, T>, and name the "
        "modules on the way to it in members(model)");
  std::vector<layer> none;
  CHECK(sentence(none) ==
        "nothing to wrap was found in this model. Call its attention through an sp::attention_slot<role, T>, and "
        "name the modules on the way to it in members(model)");
  CHECK(sp::inspect(none).text() == "nothing was taken\n");
}

TEST_CASE("heads of a slot are refused when it is made") {
  CHECK(
      says(failure_of([] { return text_slot{{.q_heads = 3, .kv_heads = 2}}; }), errc::invalid_shape, "3 q heads", "2 kv heads"));
  CHECK(says(failure_of([] { return text_slot{{.kv_heads = 2}}; }), errc::invalid_shape, "0 q heads"));
  CHECK(says(failure_of([] { return text_slot{{.prefix = 1}}; }), errc::invalid_shape, "role text", "1 prefix token"));
  CHECK(says(failure_of([] { return vision_slot{{.prefix = -1}}; }), errc::invalid_shape, "-1 prefix token"));
}

} // namespace
} // namespace test_inspect
