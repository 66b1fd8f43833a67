// Fusion and deepstack: every splice against rows that are spliced one by one on one rank, values and gradients, labels, positions, marks,
// masks and weights, in host memory and elsewhere; bytes as the closed form counts them.
// Shardings of text, visual features and decoder are drawn apart, padded or not; slack rows hold NaN, which must not be seen.
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <limits>

#include <sp/counting.hpp>
#include <sp/gather_loss.hpp>
#include <sp/vision.hpp>

#include "multimodal/fused_cases.hpp"
#include "support/failure.hpp"
#include "support/places.hpp"
#include "support/wide.hpp"

namespace test_fusion {
namespace {

using namespace fused_cases;
using sp::errc;
using support::failure_of;
using support::says;

constexpr index_t dim = 3;
using numbers = std::vector<double>;

numbers values(unsigned seed, index_t rows) {
  std::minstd_rand g(seed + 1);
  numbers v(std::size_t(rows * dim));
  for (double& x : v) x = double(g() % 4001) / 37 - 54;
  return v;
}

/// What one rank must have and must get, from the naive rows.
struct oracle {
  step const& s;
  numbers text, visual, learned, hidden, features, dhidden, dtext, dvisual, dlearned, dfeatures;
  std::vector<source> stream; ///< all samples' rows
  std::vector<index_t> begins{0};

  explicit oracle(step const& of)
      : s(of), text(values(1, index_t(s.ids.size()))), visual(values(2, s.visual)), learned(values(3, s.learned)),
        features(values(4, s.visual)), dhidden(values(5, s.fused_length())), dtext(text.size()), dvisual(visual.size()),
        dlearned(learned.size()), dfeatures(visual.size()) {
    for (auto const& rows : s.rows) {
      stream.insert(stream.end(), rows.begin(), rows.end());
      begins.push_back(index_t(stream.size()));
    }
    for (std::size_t i = 0; i < stream.size(); ++i)
      for (std::size_t c = 0; c < dim; ++c) {
        std::size_t const from = std::size_t(stream[i].at) * dim + c;
        double const g = dhidden[i * dim + c];
        switch (stream[i].from) {
        case row_source::text:
          hidden.push_back(text[from]), dtext[from] += g;
          break;
        case row_source::visual:
          hidden.push_back(visual[from]), dvisual[from] += g, dfeatures[from] += g;
          break;
        case row_source::learned:
          hidden.push_back(learned[from]), dlearned[from] += g;
          break;
        }
      }
  }
  /// [visual row] -> feature.
  index_t feature(index_t row) const { return s.order.empty() ? row : s.order[std::size_t(row)]; }
  /// A tensor of all visual rows in the order of the features.
  numbers ordered(numbers const& of) const {
    numbers out(of.size());
    for (index_t r = 0; r < s.visual; ++r) std::copy_n(of.begin() + r * dim, dim, out.begin() + feature(r) * dim);
    return out;
  }
};

/// This rank's rows of a tensor of all rows; slack rows hold `slack`.
numbers rows_of(sp::batch const& b, numbers const& all, double slack) {
  numbers out(std::size_t(b.tokens() * dim), slack);
  sp::for_each_row(b, [&](sp::local_row const& r) {
    if (r.real) std::copy_n(all.begin() + sp::source_position(b, r) * dim, dim, out.begin() + r.row * dim);
  });
  return out;
}
bool near(numbers const& a, numbers const& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!(std::abs(a[i] - b[i]) <= 1e-11)) return false;
  return true;
}

struct batches {
  sp::batch text, visual;
  template <class Ranks>
  batches(step const& s, Ranks const& ranks)
      : text(s.text_documents(), s.text_how, ranks, {s.text_local}),
        visual(s.visual_documents(), s.visual_how, ranks, {s.visual_local}) {}
};

struct result {
  std::string wrong; ///< names of what is wrong
  numbers dlearned;
  double loss = 0;
};

/// Integers of the fused batch: labels, weights, positions, marks.
template <class Place>
std::string wrong_integers(Place& here, step const& s, oracle const& o, sp::fused_batch const& f) {
  std::string wrong;
  auto expect = [&](bool good, char const* what) { wrong += good ? "" : std::string(" ") + what; };
  sp::batch const& b = f.batch();
  auto const q = here.context().queue;
  index_t const n = b.tokens();
  auto tensor = [&](auto value) {
    return typename Place::template tensor<decltype(value), 1>(here, {n}, std::vector<decltype(value)>(std::size_t(n), value));
  };
  auto labels = tensor(std::int64_t{77}), own = tensor(std::int64_t{77});
  auto weights = tensor(7.f);
  auto marks = tensor(std::int32_t{5});
  auto at = tensor(index_t{7});
  typename Place::template tensor<index_t, 2> rotary(here, {n, 3}, std::vector<index_t>(std::size_t(n * 3), 7));
  std::vector<index_t> own_ids(s.ids);
  for (std::size_t i = 0; i < own_ids.size(); i += 2) own_ids[i] = -100;
  f.labels(q, *labels), f.labels(q, *own, own_ids);
  f.loss_weights(q, *labels, *weights);
  f.visual_mask(q, *marks), f.positions(q, *at), f.positions_3d(q, *rotary, s.rotary);
  auto const l = labels.download();
  auto const l2 = own.download();
  auto const w = weights.download();
  auto const m = marks.download();
  auto const p = at.download(), r3 = rotary.download();
  std::vector<index_t> marked;
  std::vector<std::vector<index_t>> want_labels, want_own;
  std::vector<std::vector<std::array<index_t, 3>>> want_rotary;
  for (std::size_t d = 0; d < s.samples.size(); ++d) {
    want_labels.push_back(naive_labels(s, d, s.ids)), want_own.push_back(naive_labels(s, d, own_ids));
    want_rotary.push_back(naive_rotary(s, d));
  }
  sp::for_each_row(b, [&](sp::local_row const& r) {
    auto const i = std::size_t(r.row), at_row = std::size_t(r.offset);
    index_t const label = r.real ? want_labels[r.document][at_row] : -100;
    bool const visual = r.real && s.rows[r.document][at_row].from == row_source::visual;
    expect(l[i] == label, "labels");
    expect(l2[i] == (r.real ? want_own[r.document][at_row] : -100), "own labels");
    expect(w[i] == (label == -100 ? 0.f : 1.f), "weights");
    expect(m[i] == (visual ? 1 : 0), "marks");
    expect(p[i] == (r.real ? r.offset : 0), "positions");
    for (std::size_t axis = 0; axis < 3; ++axis)
      expect(r3[i * 3 + axis] == (r.real ? want_rotary[r.document][at_row][axis] : 0), "rotary positions");
    if (visual) marked.push_back(r.row);
  });
  std::sort(marked.begin(), marked.end());
  expect(f.visual_rows() == marked, "visual rows");
  expect(f.documents().size() == s.samples.size(), "documents");
  for (std::size_t d = 0; d < s.samples.size(); ++d)
    expect(f.documents()[d] ==
               sp::document{o.begins[d], index_t(s.rows[d].size()), index_t(s.rows[d].size()), 100 + 7 * index_t(d)},
           "documents");
  return wrong;
}

/// Rows whose source lies on another rank than they do, sent or received by `me`.
struct counted_rows {
  index_t text = 0, visual = 0;
};
counted_rows moving(oracle const& o, batches const& b, sp::batch const& fused, int me, bool sent) {
  counted_rows n;
  for (index_t i = 0; i < index_t(o.stream.size()); ++i) {
    source const& from = o.stream[std::size_t(i)];
    if (from.from == row_source::learned) continue;
    bool const text = from.from == row_source::text;
    int const owner = text ? sp::owner_of(b.text, from.at).part : sp::owner_of(b.visual, o.feature(from.at)).part;
    int const to = sp::owner_of(fused, i).part;
    if (owner != to && (sent ? owner : to) == me) ++(text ? n.text : n.visual);
  }
  return n;
}

/// As many bytes of the place's memory as scratch_bytes says, and no more.
template <class Place>
struct exact_scratch {
  using memory_type = typename Place::ranks::memory_type;
  typename Place::template tensor<char, 1> block;
  sp::basic_workspace<memory_type> space;

  exact_scratch(Place& here, index_t bytes)
      : block(here, {bytes + room}, std::vector<char>(std::size_t(bytes + room))),
        space(aligned((*block).data), std::size_t(bytes)) {}
  auto context(Place& here) { return sp::context(here.context().queue, space, here.memory); }

private:
  static constexpr auto room = index_t(sp::allocator::alignment);
  static char* aligned(char* p) { return p + (room - index_t(reinterpret_cast<std::uintptr_t>(p)) % room) % room; }
};

struct planted {
  bool swap_rows = false; ///< two rows of one image change places
};

/// Everything on one rank.
template <class Place>
result run_rank(Place& here, step const& s, bool with_context, planted const& bug = {}) {
  result out;
  auto expect = [&](bool good, std::string const& what) { out.wrong += good ? "" : " " + what; };
  oracle const o(s);
  sp::ledger ledger;
  sp::counting comm(here.comm, ledger);
  auto const in_pools = here.context();
  batches const b(s, comm);
  sp::fusion const fusion(comm, any_splice{s.which}, {.local = s.fused_local, .checks = s.checks});
  auto const samples = s.splice_samples();
  sp::fused_batch const f = s.fused_how.with([&](auto how) {
    return with_context || s.checks > 1 ? fusion.prepare(in_pools, samples, b.text, b.visual, s.order, how)
                                        : fusion.prepare(samples, b.text, b.visual, s.order, how);
  });
  out.wrong += wrong_integers(here, s, o, f);

  auto tensor = [&](numbers v) { return typename Place::template tensor<double, 2>(here, {index_t(v.size()) / dim, dim}, v); };
  sp::deepstack const deepstack(fusion, {.checks = s.checks});
  exact_scratch of_fusion(here, fusion.template scratch_bytes<double>(f, dim, in_pools.queue)),
      of_deepstack(here, deepstack.template scratch_bytes<double>(f, dim, in_pools.queue));
  auto const ctx = of_fusion.context(here);
  auto held = [&](auto&& pass) { // work is only queued, unless ranks compare: waiting for it is an error
    if (s.checks > 1) return pass();
    typename Place::hold const nothing_runs(here);
    pass();
  };
  auto unset = [&](index_t rows) { return tensor(numbers(std::size_t(rows * dim), 1e9)); };
  double const nan = std::numeric_limits<double>::quiet_NaN();
  numbers visual = o.ordered(o.visual);
  if (bug.swap_rows) std::swap_ranges(visual.begin(), visual.begin() + dim, visual.begin() + dim);
  auto text = tensor(rows_of(b.text, o.text, nan)), pictures = tensor(rows_of(b.visual, visual, nan)),
       learned = tensor(o.learned), hidden = unset(f.tokens());
  held([&] { fusion.forward(f, ctx, {.text = *text, .visual = *pictures, .learned = *learned, .hidden = *hidden}); });
  numbers const spliced = hidden.download();
  expect(spliced == rows_of(f.batch(), o.hidden, 0), "hidden");

  auto dhidden = tensor(rows_of(f.batch(), o.dhidden, nan)), dtext = unset(b.text.tokens()), dvisual = unset(b.visual.tokens()),
       dlearned = unset(s.learned);
  held([&] { fusion.backward(f, ctx, {.dhidden = *dhidden, .dtext = *dtext, .dvisual = *dvisual, .dlearned = *dlearned}); });
  expect(near(dtext.download(), rows_of(b.text, o.dtext, 0)), "dtext");
  expect(near(dvisual.download(), rows_of(b.visual, o.ordered(o.dvisual), 0)), "dvisual");
  out.dlearned = dlearned.download();

  auto const in_stack = of_deepstack.context(here);
  auto features = tensor(rows_of(b.visual, o.ordered(o.features), nan)), dfeatures = unset(b.visual.tokens());
  held([&] { deepstack.forward(f, in_stack, *features, *hidden); });
  numbers sum = o.hidden;
  for (std::size_t i = 0; i < o.stream.size(); ++i)
    for (std::size_t c = 0; c < dim && o.stream[i].from == row_source::visual; ++c)
      sum[i * dim + c] += o.features[std::size_t(o.stream[i].at) * dim + c];
  expect(hidden.download() == rows_of(f.batch(), sum, 0), "deepstack");
  held([&] { deepstack.backward(f, in_stack, *dhidden, *dfeatures); });
  expect(near(dfeatures.download(), rows_of(b.visual, o.ordered(o.dfeatures), 0)), "dfeatures");

  // bytes: what has another owner, and nothing else, in one exchange each
  counted_rows const sent = moving(o, b, f.batch(), comm.rank(), true), received = moving(o, b, f.batch(), comm.rank(), false);
  index_t const row = dim * index_t(sizeof(double));
  auto moved = [&](char const* name, index_t rows) {
    expect(ledger.of(name).bytes_sent == rows * row && ledger.of(name).operations == 1, std::string("bytes of ") + name);
  };
  moved("fusion.forward", sent.text + sent.visual), moved("fusion.backward", received.text + received.visual);
  moved("deepstack.forward", sent.visual), moved("deepstack.backward", received.visual);
  expect(f.text_moved().sent == sent.text && f.text_moved().received == received.text && f.visual_moved().sent == sent.visual &&
             f.visual_moved().received == received.visual,
         "closed form");
  return out;
}

std::string text_of(step const& s) {
  std::string t = "rule " + std::to_string(int(s.which)) + ", " + std::to_string(s.parts) + " ranks, " +
                  std::to_string(s.samples.size()) + " samples, " + std::to_string(s.visual) + " visual rows, shardings " +
                  std::to_string(s.text_how.kind) + std::to_string(s.visual_how.kind) + std::to_string(s.fused_how.kind);
  return t;
}

template <class Place>
std::string wrong_step(step const& s, bool with_context, unsigned seed, planted const& bug = {}) {
  auto const all = support::on_all_ranks<Place>(
      s.parts, [&](Place& here) { return run_rank(here, s, with_context, bug); }, support::interleaving::random, seed);
  std::string wrong;
  numbers dlearned(std::size_t(s.learned * dim));
  for (result const& r : all) {
    if (!r.wrong.empty() && wrong.empty()) wrong = text_of(s) + ":" + r.wrong;
    for (std::size_t i = 0; i < dlearned.size() && i < r.dlearned.size(); ++i) dlearned[i] += r.dlearned[i];
  }
  if (!near(dlearned, oracle(s).dlearned)) wrong += " dlearned";
  return wrong;
}

TEST_CASE("fusion: every splice is what it is row by row on one rank, forward and backward, 1 to 8 ranks [asan]") {
  drawer draw(7);
  int images = 0, none = 0;
  for (int trial = 0; trial < (support::wide() ? 40 : 6); ++trial)
    for (int which = 0; which < rules; ++which)
      for (int parts = 1; parts <= 8; ++parts) {
        step const s = draw.draw(rule(which), parts);
        images += s.visual > 0, none += s.visual == 0;
        CHECK(wrong_step<support::host_place>(s, trial % 2 == 0, 1) == "");
      }
  CHECK(images > 100);
  CHECK(none > 20);
}

TEST_CASE("fusion: the same elsewhere, with tables and without") {
  drawer draw(11);
  unsigned seed = 0;
  for (int which = 0; which < rules; ++which)
    for (int parts : {1, 3, 4}) {
      step const s = draw.draw(rule(which), parts);
      ++seed;
      CHECK(wrong_step<support::late_place>(s, seed % 2 == 0, seed) == "");
    }
}

TEST_CASE("fusion: two rows that change places inside one image are found") {
  step s;
  s.which = rule::placeholder, s.parts = 3;
  s.samples = {{{1, image_token, 2}, {{1, 2, 3}}}};
  s.finish();
  CHECK(wrong_step<support::host_place>(s, false, 1) == "");
  std::string const wrong = wrong_step<support::host_place>(s, false, 1, {.swap_rows = true});
  CHECK(wrong.find(": hidden") != std::string::npos);
}

/// Features that name their place: merged tokens of windowed images, each the number that its image has in raster order.
TEST_CASE("fusion: the order of windows is undone, one image over several ranks") {
  sp::images const images({{1, 10, 14}, {3, 4, 6}, {1, 2, 2}, {1, 18, 2}}, {.merge = 2, .window = 2});
  std::vector<visual_item> const items{{1, 5, 7}, {3, 2, 3, true}, {1, 1, 1}, {1, 9, 1}};
  std::vector<index_t> first{1, image_token, 2}, second(std::size_t(18), video_token), ids;
  first.insert(first.end(), 34, image_token);
  second.insert(second.begin(), 3), second.insert(second.end(), 10, image_token);
  ids = first, ids.insert(ids.end(), second.begin(), second.end());
  std::array<sp::splice_sample, 2> const samples{{{first, {items.data(), 1}}, {second, {items.data() + 1, 3}}}};
  for (int parts : {1, 2, 3, 5, 8}) {
    std::atomic<int> wrong{0}, sharing{0};
    sp::threads::run(parts, [&](sp::threads const& comm) {
      sp::batch const patches(images.windows(), sp::grained{sp::contiguous{sp::scope::stream}, images.grain()}, comm);
      sp::batch const visual = sp::merged(patches, images.grain());
      sp::batch const text(sp::documents::packed(std::vector<index_t>{0, index_t(first.size()), index_t(ids.size())}),
                           sp::contiguous{}, comm);
      sp::fusion const fusion(comm, sp::splice::one_to_one{image_token, video_token});
      auto const f = fusion.prepare(samples, text, visual, images.merged_rows(), sp::zigzag{});
      numbers raster(std::size_t(images.merged_tokens())), features(std::size_t(visual.tokens()), -1);
      for (std::size_t i = 0; i < raster.size(); ++i)
        raster[std::size_t(images.merged_rows()[i])] = double(i); // by unit of the tower
      sp::split(visual, sp::view<double const, 1>(raster.data(), {images.merged_tokens()}),
                sp::view<double, 1>(features.data(), {visual.tokens()}));
      numbers words(std::size_t(text.tokens()), -1), hidden(std::size_t(f.tokens()), -2);
      sp::pool memory;
      fusion.forward(f, sp::context(memory, memory), sp::view<double const, 1>(words.data(), {text.tokens()}),
                     sp::view<double const, 1>(features.data(), {visual.tokens()}), {},
                     sp::view<double, 1>(hidden.data(), {f.tokens()}));
      sp::for_each_row(f.batch(),
                       [&](sp::local_row const& r) { // image rows count on in the order of the text, from image to image
                         index_t const at = sp::source_position(f.batch(), r);
                         double want = -1;
                         if (r.document == 0 && at >= 1 && at != 2 && at < 37) want = at == 1 ? 0 : double(at - 2);
                         if (r.document == 1 && r.offset > 0) want = double(34 + r.offset);
                         wrong += hidden[std::size_t(r.row)] != want;
                       });
      sharing += visual.tokens() > 0 && visual.runs()[0].begin < 35; // ranks with rows of the first image
    });
    CHECK(wrong == 0);
    CHECK(sharing >= (parts > 2 ? 2 : 1));
  }
}

/// A model of one layer: a row's score is the sum of its values, its loss (score - label)^2.
double loss_of(std::vector<numbers> const& hidden, std::vector<std::vector<index_t>> const& labels) {
  double sum = 0, count = 0;
  for (std::size_t d = 0; d < hidden.size(); ++d)
    for (std::size_t i = 0; i < labels[d].size(); ++i)
      if (labels[d][i] != -100) {
        double score = 0;
        for (std::size_t c = 0; c < dim; ++c) score += hidden[d][i * dim + c];
        sum += (score - double(labels[d][i])) * (score - double(labels[d][i])), ++count;
      }
  return count > 0 ? sum / count : 0;
}

TEST_CASE("fusion: the loss and its gradients on several ranks are those of one, by gather_loss") {
  drawer draw(23);
  for (int trial = 0; trial < 14; ++trial) {
    step const s = draw.draw(rule(trial % rules), 2 + trial % 4);
    oracle const o(s);
    std::vector<numbers> hidden;
    std::vector<std::vector<index_t>> labels;
    for (std::size_t d = 0; d < s.rows.size(); ++d) {
      hidden.emplace_back(o.hidden.begin() + o.begins[d] * dim, o.hidden.begin() + o.begins[d + 1] * dim);
      labels.push_back(naive_labels(s, d, s.ids));
    }
    double const want = loss_of(hidden, labels);
    std::atomic<int> wrong{0};
    sp::threads::run(s.parts, [&](sp::threads const& comm) {
      batches const b(s, comm);
      sp::fusion const fusion(comm, any_splice{s.which}, {.local = s.fused_local});
      auto const samples = s.splice_samples();
      auto const f = s.fused_how.with([&](auto how) { return fusion.prepare(samples, b.text, b.visual, s.order, how); });
      std::vector<std::int32_t> mine(std::size_t(f.tokens()));
      std::vector<double> losses(mine.size()), dlosses(mine.size()), weights(mine.size());
      sp::view<std::int32_t, 1> const l(mine.data(), {f.tokens()});
      f.labels(l);
      f.loss_weights(l, sp::view<double, 1>(weights.data(), {f.tokens()}));
      numbers const x = rows_of(f.batch(), o.hidden, 0);
      for (std::size_t i = 0; i < mine.size(); ++i) {
        double score = 0;
        for (std::size_t c = 0; c < dim; ++c) score += x[i * dim + c];
        losses[i] = (score - mine[i]) * (score - mine[i]) * (weights[i] > 0 ? 1 : 1e9);
      }
      sp::gather_loss const loss(comm, sp::summed{});
      sp::view<double, 1> const values(losses.data(), {f.tokens()}), gradient(dlosses.data(), {f.tokens()});
      auto const r = loss.forward(values, l);
      loss.backward(r, l, gradient);
      double counted = 0, all = 0;
      for (double w : weights) counted += w;
      for (auto const& list : labels)
        for (index_t label : list) all += label != -100;
      wrong += !(std::abs(r.loss - want) <= 1e-9 * (1 + std::abs(want))) || double(r.num_tokens) != all;
      for (std::size_t i = 0; i < mine.size(); ++i) wrong += !(std::abs(dlosses[i] - (weights[i] > 0 ? 1 / all : 0)) < 1e-12);
      // weights alone say which rows count, where every row has a label
      std::vector<std::int32_t> const labelled(mine.size(), 0);
      sp::view<std::int32_t const, 1> const every(labelled.data(), {f.tokens()});
      sp::view<double const, 1> const w(weights.data(), {f.tokens()});
      numbers const told = dlosses;
      auto const by_weights = loss.forward(values, every, w);
      loss.backward(by_weights, every, w, gradient);
      wrong += by_weights.loss != r.loss || by_weights.weight != all || by_weights.num_tokens != r.num_tokens || dlosses != told;
      double sum[1] = {counted};
      sp::pool scratch;
      sp::all_reduce(comm, sp::view<double, 1>(sum, 1), scratch);
      wrong += sum[0] != all;
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("fusion: mismatches are the same sentence on every rank, and nothing has been sent") {
  step s;
  s.which = rule::placeholder, s.parts = 4;
  s.samples = {{{1, 2, 3}, {}}, {{1, image_token, image_token}, {{1, 2, 2}, {1, 1, 2}}}};
  s.finish();
  std::vector<std::string> problems(4);
  std::atomic<int> sent{0};
  sp::threads::run(4, [&](sp::threads const& ranks) {
    sp::ledger ledger;
    sp::counting comm(ranks, ledger);
    batches const b(s, comm);
    auto samples = s.splice_samples();
    samples[1].items = samples[1].items.first(1);
    sp::fusion const fusion(comm, sp::splice::placeholder{image_token});
    try {
      static_cast<void>(fusion.prepare(samples, b.text, b.visual, sp::contiguous{}));
    } catch (sp::error const& e) {
      problems[std::size_t(comm.rank())] = e.info().problem;
      if (e.info().rank != comm.rank() || e.info().primitive != "fusion.prepare") ++sent;
    }
    sent += int(ledger.total().operations);
  });
  CHECK(sent == 0);
  for (auto const& p : problems) CHECK(p == "sample 1: 2 placeholders (token 900), 1 image");
}

TEST_CASE("fusion: from check level 2 on ranks that were given other samples or tensors are named before anything moves") {
  step s;
  s.which = rule::one_to_one, s.parts = 3;
  s.samples = {{{1, image_token, 2}, {{1, 1, 1}}}};
  s.finish();
  std::vector<std::string> at_prepare(3), at_forward(3), unprepared(3), of_one(3), of_deepstack(3);
  sp::threads::run(3, [&](sp::threads const& comm) {
    auto const me = std::size_t(comm.rank());
    batches const b(s, comm);
    auto samples = s.splice_samples();
    sp::fusion const fusion(comm, any_splice{s.which}, {.checks = 2});
    auto prepare = [&] { return fusion.prepare(samples, b.text, b.visual, sp::contiguous{}); };
    std::vector<index_t> other{7, image_token, 2};
    if (me == 1) samples[0].tokens = other;
    at_prepare[me] = failure_of([&] { return (static_cast<void>(prepare()), 0); }).problem;
    if (me == 1) samples[0].items = {};
    unprepared[me] = failure_of([&] { return (static_cast<void>(prepare()), 0); }).problem;
    samples = s.splice_samples();
    auto const f = prepare();
    numbers text(std::size_t(b.text.tokens() * 4)), visual(std::size_t(b.visual.tokens() * 4)),
        hidden(std::size_t(f.tokens() * 4));
    auto forward = [&](index_t width, index_t width_of_text) {
      return failure_of([&] {
               fusion.forward(f, {.text = sp::view<double, 2>(text.data(), {b.text.tokens(), width_of_text}),
                                  .visual = sp::view<double, 2>(visual.data(), {b.visual.tokens(), width}),
                                  .hidden = sp::view<double, 2>(hidden.data(), {f.tokens(), width})});
               return 0;
             })
          .problem;
    };
    at_forward[me] = me == 2 ? forward(4, 4) : forward(2, 2);
    of_one[me] = me == 2 ? forward(2, 4) : forward(2, 2);
    of_deepstack[me] = failure_of([&] {
                         sp::deepstack(fusion, {.checks = 2})
                             .forward(f, sp::view<double, 2>(visual.data(), {b.visual.tokens(), me == 2 ? 3 : 2}),
                                      sp::view<double, 2>(hidden.data(), {f.tokens(), 2}));
                         return 0;
                       }).problem;
  });
  for (std::size_t r = 0; r < 3; ++r) {
    CHECK(at_prepare[r].find("rank 1 differs from ranks 0, 2 in tokens and images") != std::string::npos);
    CHECK(unprepared[r].find(r == 1 ? "sample 0: 1 image token" : "rank 1") != std::string::npos);
    CHECK(at_forward[r].find("rank 2 differs from ranks 0, 1 in row shape") != std::string::npos);
    CHECK(of_one[r].find(r == 2 ? "text (1, 4) and hidden (1, 2) do not fit" : "rank 2") != std::string::npos);
    CHECK(of_deepstack[r].find(r == 2 ? "features (1, 3) and hidden (1, 2) do not fit" : "rank 2") != std::string::npos);
  }
}

TEST_CASE("fusion: a step of text alone needs no tensors of images, and every rank takes part in all exchanges") {
  for (int parts : {1, 3, 5}) {
    std::atomic<int> wrong{0};
    sp::threads::run(parts, [&](sp::threads const& ranks) {
      sp::ledger ledger;
      sp::counting comm(ranks, ledger);
      sp::images const none({}, {.merge = 2});
      sp::batch const patches(none.frames(), sp::grained{sp::contiguous{}, none.grain()}, comm);
      sp::batch const features = sp::merged(patches, none.grain());
      sp::batch const text(sp::documents::packed(std::vector<index_t>{0, 3, 3, 4}), sp::contiguous{}, comm);
      std::array<index_t, 4> const ids{1, 2, 3, 4};
      std::array<sp::splice_sample, 3> const samples{{{{ids.data(), 3}, {}}, {}, {{ids.data() + 3, 1}, {}}}};
      sp::fusion const fusion(comm, sp::splice::between{7, 8});
      auto const f = fusion.prepare(samples, text, features, none.merged_rows(), sp::zigzag{});
      numbers words(std::size_t(text.tokens() * dim), comm.rank()), hidden(std::size_t(f.tokens() * dim), -1);
      sp::view<double, 2> const t(words.data(), {text.tokens(), dim}), h(hidden.data(), {f.tokens(), dim});
      sp::deepstack const deepstack(fusion);
      sp::pool memory;
      sp::context const ctx(memory, memory);
      fusion.forward(f, {.text = t, .hidden = h});
      sp::for_each_row(f.batch(), [&](sp::local_row const& r) {
        wrong += hidden[std::size_t(r.row * dim)] != sp::owner_of(text, sp::source_position(f.batch(), r)).part;
      });
      numbers const before = hidden;
      deepstack.forward(f, ctx, {}, h);
      wrong += hidden != before;
      fusion.backward(f, {.dhidden = h, .dtext = t});
      deepstack.backward(f, ctx, h, sp::view<double, 2>());
      for (double x : words) wrong += x != comm.rank();
      for (char const* name : {"fusion.forward", "fusion.backward", "deepstack.forward", "deepstack.backward"})
        wrong += ledger.of(name).operations != 1;
      wrong += f.visual_rows().size() != 0 || f.visual_tokens() != 0;
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("fusion: passes take what scratch_bytes says, and not less") {
  step s;
  s.which = rule::users_own;
  s.samples = {{{1, 2, 3}, {{1, 2, 2}}}};
  s.finish();
  std::vector<sp::bf16> text(3 * dim), visual(4 * dim), learned(2 * dim), hidden(std::size_t(s.fused_length() * dim));
  auto rows = [](auto& v) { return sp::view<sp::bf16, 2>(v.data(), {index_t(v.size()) / dim, dim}); };
  for (int checks : {1, 2}) {
    sp::solo const comm;
    batches const b(s, comm);
    sp::fusion const fusion(comm, any_splice{s.which}, {.checks = checks});
    sp::deepstack const deepstack(fusion, {.checks = checks});
    auto const f = fusion.prepare(s.splice_samples(), b.text, b.visual, sp::contiguous{});
    alignas(sp::allocator::alignment) std::byte room[1 << 14];
    sp::pool kept;
    auto passes = [&](index_t bytes, bool of_deepstack) {
      sp::workspace scratch(room, std::size_t(bytes));
      sp::context const ctx(scratch, kept);
      auto const h = rows(hidden), v = rows(visual);
      if (of_deepstack) return deepstack.forward(f, ctx, v, h), deepstack.backward(f, ctx, h, v), 0;
      fusion.forward(f, ctx, rows(text), v, rows(learned), h), fusion.backward(f, ctx, h, rows(text), v, rows(learned));
      return 0;
    };
    constexpr auto less = index_t(sp::allocator::alignment); // blocks are counted in it
    index_t const of_fusion = fusion.scratch_bytes<sp::bf16>(f, dim), of_stack = deepstack.scratch_bytes<sp::bf16>(f, dim);
    REQUIRE(std::size_t(std::max(of_fusion, of_stack)) <= sizeof(room));
    CHECK(passes(of_fusion, false) == 0);
    CHECK(passes(of_stack, true) == 0);
    CHECK(failure_of([&] { return passes(of_fusion - less, false); }).code == errc::workspace_too_small);
    CHECK(failure_of([&] { return passes(of_stack - less, true); }).code == errc::workspace_too_small);
  }
}

TEST_CASE("fusion: what belongs to another group, fusion or batch is refused, and so are tensors that do not fit") {
  step s;
  s.which = rule::lines;
  s.samples = {{{1, image_token, 2}, {{1, 2, 2}}}};
  s.finish();
  sp::solo const comm;
  batches const b(s, comm);
  sp::fusion const fusion(comm, any_splice{s.which}), other(comm, any_splice{s.which}), copy(fusion);
  auto const samples = s.splice_samples();
  auto const f = fusion.prepare(samples, b.text, b.visual, sp::contiguous{});
  numbers text(3 * dim), visual(4 * dim), learned(dim), hidden(8 * dim);
  auto rows = [](numbers& v, index_t n) { return sp::view<double, 2>(v.data(), {n, dim}); };
  sp::pool memory;
  sp::context const ctx(memory, memory);
  auto forward = [&](auto const& of, sp::view<double, 2> t, sp::view<double, 2> v, sp::view<double, 2> l, sp::view<double, 2> h) {
    of.forward(f, ctx, {.text = t, .visual = v, .learned = l, .hidden = h});
    return 0;
  };
  auto const t = rows(text, 3), v = rows(visual, 4), l = rows(learned, 1), h = rows(hidden, 8);
  CHECK(forward(fusion, t, v, l, h) == 0);
  CHECK(forward(copy, t, v, l, h) == 0);
  CHECK(says(failure_of([&] { return forward(other, t, v, l, h); }), errc::bad_state, "another fusion"));
  CHECK(says(failure_of([&] { return forward(fusion, rows(text, 2), v, l, h); }), errc::invalid_shape, "text (2, 3) has 2 rows",
             "has 3"));
  CHECK(says(failure_of([&] { return forward(fusion, t, rows(visual, 3), l, h); }), errc::invalid_shape, "visual", "3 rows",
             "has 4"));
  CHECK(says(failure_of([&] { return forward(fusion, t, v, {}, h); }), errc::invalid_shape, "learned", "0 rows", "has 1"));
  CHECK(says(failure_of([&] { return forward(fusion, t, v, l, rows(hidden, 7)); }), errc::invalid_shape, "hidden", "7 rows",
             "has 8"));
  CHECK(says(failure_of([&] { return forward(fusion, {text.data(), {3, 2}}, v, l, h); }), errc::invalid_shape, "(3, 2)"));
  CHECK(says(failure_of([&] {
               return forward(fusion, t, v, l, {text.data(), {8, dim}});
             }),
             errc::aliasing, "hidden overlaps text"));
  CHECK(says(failure_of([&] { return (fusion.backward(f, ctx, h, t, t, l), 0); }), errc::invalid_shape, "dvisual"));
  auto e = failure_of([&] { return (sp::deepstack(other).forward(f, ctx, v, h), 0); });
  CHECK(says(e, errc::bad_state, "another fusion"));
  CHECK(e.primitive == "deepstack.forward");
  sp::deepstack(comm).forward(f, ctx, v, h); // of the group: of whatever fusion
  CHECK(says(failure_of([&] { return (sp::deepstack(fusion).backward(f, ctx, h, t), 0); }), errc::invalid_shape, "dfeatures",
             "3 rows", "has 4"));
  sp::deepstack const three(fusion, {.layers = {0, 3, 4}});
  CHECK(three.at(3) == 1);
  CHECK(three.at(1) == -1);
  auto stack = [&](std::vector<index_t> layers) {
    return failure_of([&] { return (static_cast<void>(sp::deepstack(comm, {.layers = std::move(layers)})), 0); });
  };
  CHECK(says(stack({0, 4, 2, 4}), errc::bad_state, "layers[3] is 4", "layers[1]"));
  CHECK(says(stack({0, -1}), errc::bad_state, "layers[1] is -1"));
  // a group of another size: batches and fused batches
  sp::threads::run(2, [&](sp::threads const& two) {
    sp::fusion const pair(two, any_splice{s.which});
    auto const text_of_one =
        failure_of([&] { return (static_cast<void>(pair.prepare(samples, b.text, b.visual, sp::contiguous{})), 0); });
    CHECK(says(text_of_one, errc::invalid_shape, "the text batch was made for rank 0 of 1"));
    auto const of_one = failure_of([&] { return (sp::deepstack(two).forward(f, ctx, v, h), 0); });
    CHECK(says(of_one, errc::bad_state, "made for rank 0 of 1", "of 2"));
  });
}

/// 256 or 1: bf16 counts 256, 258, 260, so that 256 + 1 + 1 is right only in the type of sums.
std::vector<sp::bf16> coarse(numbers const& v) {
  std::vector<sp::bf16> out;
  for (double x : v) out.push_back(sp::from_acc<sp::bf16>(int(x) % 3 == 0 ? 256.f : 1.f));
  return out;
}

TEST_CASE("fusion: rows of several dimensions, and of half precision, summed in the type of sums and rounded once") {
  drawer draw(5);
  int rounded = 0;
  for (int parts : {1, 3, 3}) {
    step s = draw.draw(rule::users_own, parts);
    while (s.visual == 0) s = draw.draw(rule::users_own, parts);
    oracle const o(s);
    std::atomic<int> wrong{0};
    auto const all = coarse(o.dhidden);
    std::vector<float> text(o.text.size()), visual(o.visual.size());
    auto add = [&](std::vector<float>& to, std::size_t row, index_t at) {
      for (std::size_t c = 0; c < dim; ++c) to[row * dim + c] += sp::to_acc(all[std::size_t(at) * dim + c]);
    };
    for (index_t i = 0; i < index_t(o.stream.size()); ++i) {
      source const& from = o.stream[std::size_t(i)];
      if (from.from == row_source::text) add(text, std::size_t(from.at), i);
      if (from.from == row_source::visual) add(visual, std::size_t(o.feature(from.at)), i);
    }
    for (float x : visual) rounded += x == 258.f;
    sp::threads::run(parts, [&](sp::threads const& comm) {
      batches const b(s, comm);
      sp::fusion const fusion(comm, any_splice{s.which}, {.local = s.fused_local});
      auto const samples = s.splice_samples();
      auto const f = s.fused_how.with([&](auto how) { return fusion.prepare(samples, b.text, b.visual, s.order, how); });
      auto rows = [](auto& v) {
        return sp::view<std::remove_reference_t<decltype(v[0])>, 3>(v.data(), {index_t(v.size()) / dim, 1, dim});
      };
      auto const dhidden = coarse(rows_of(f.batch(), o.dhidden, 1));
      std::vector<sp::bf16> dtext(std::size_t(b.text.tokens() * dim)), dvisual(std::size_t(b.visual.tokens() * dim)),
          dlearned(o.learned.size()), dfeatures(dvisual.size());
      sp::pool memory;
      sp::context const ctx(memory, memory);
      fusion.backward(f, ctx, rows(dhidden), rows(dtext), rows(dvisual), rows(dlearned));
      sp::deepstack(fusion).backward(f, ctx, rows(dhidden), rows(dfeatures));
      std::vector<float> learned(o.learned.size()); // this rank's share
      sp::for_each_row(f.batch(), [&](sp::local_row const& r) {
        if (!r.real) return;
        index_t const at = sp::source_position(f.batch(), r);
        if (o.stream[std::size_t(at)].from == row_source::learned) add(learned, std::size_t(o.stream[std::size_t(at)].at), at);
      });
      auto equal = [&](std::vector<sp::bf16> const& got, numbers const& want) {
        for (std::size_t i = 0; i < want.size(); ++i)
          wrong += sp::to_acc(got[i]) != sp::to_acc(sp::from_acc<sp::bf16>(float(want[i])));
      };
      equal(dtext, rows_of(b.text, numbers(text.begin(), text.end()), 0));
      equal(dvisual, rows_of(b.visual, numbers(visual.begin(), visual.end()), 0));
      equal(dfeatures, rows_of(b.visual, numbers(visual.begin(), visual.end()), 0));
      equal(dlearned, numbers(learned.begin(), learned.end()));

      auto hidden = coarse(rows_of(f.batch(), o.hidden, 1));
      auto const before = hidden, features = coarse(rows_of(b.visual, o.ordered(o.features), 1));
      sp::deepstack(fusion).forward(f, ctx, rows(features), rows(hidden));
      auto const of_features = coarse(o.features);
      numbers want(hidden.size());
      for (std::size_t i = 0; i < want.size(); ++i) want[i] = sp::to_acc(before[i]);
      sp::for_each_row(f.batch(), [&](sp::local_row const& r) {
        source const* const from = r.real ? &o.stream[std::size_t(sp::source_position(f.batch(), r))] : nullptr;
        for (std::size_t c = 0; from && from->from == row_source::visual && c < dim; ++c)
          want[std::size_t(r.row) * dim + c] += sp::to_acc(of_features[std::size_t(from->at) * dim + c]);
      });
      equal(hidden, want);
    });
    CHECK(wrong == 0);
  }
  CHECK(rounded > 0);
}

} // namespace
} // namespace test_fusion
