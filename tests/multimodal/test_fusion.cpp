// Fusion and deepstack: every splice against rows that are spliced one by one on one rank, values and gradients, labels, positions, marks,
// masks and weights, in host memory and elsewhere; bytes as the closed form counts them.
// Shardings of text, visual features and decoder are drawn apart, padded or not; slack rows hold NaN, which must not be seen.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <map>
#include <optional>

#include <sp/counting.hpp>
#include <sp/gather_loss.hpp>

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
  auto const ctx = here.context();
  batches const b(s, comm);
  sp::fusion const fusion(comm, any_splice{s.which}, {.local = s.fused_local});
  auto const samples = s.splice_samples();
  sp::fused_batch const f = s.fused_how.with([&](auto how) {
    return with_context ? fusion.prepare(ctx, samples, b.text, b.visual, s.order, how)
                        : fusion.prepare(samples, b.text, b.visual, s.order, how);
  });
  out.wrong += wrong_integers(here, s, o, f);

  auto tensor = [&](numbers v) { return typename Place::template tensor<double, 2>(here, {index_t(v.size()) / dim, dim}, v); };
  auto unset = [&](index_t rows) { return tensor(numbers(std::size_t(rows * dim), 1e9)); };
  double const nan = std::numeric_limits<double>::quiet_NaN();
  numbers visual = o.ordered(o.visual);
  if (bug.swap_rows) std::swap_ranges(visual.begin(), visual.begin() + dim, visual.begin() + dim);
  auto text = tensor(rows_of(b.text, o.text, nan)), pictures = tensor(rows_of(b.visual, visual, nan)),
       learned = tensor(o.learned), hidden = unset(f.tokens());
  fusion.forward(f, ctx, {.text = *text, .visual = *pictures, .learned = *learned, .hidden = *hidden});
  numbers const spliced = hidden.download();
  expect(spliced == rows_of(f.batch(), o.hidden, 0), "hidden");

  auto dhidden = tensor(rows_of(f.batch(), o.dhidden, nan)), dtext = unset(b.text.tokens()), dvisual = unset(b.visual.tokens()),
       dlearned = unset(s.learned);
  fusion.backward(f, ctx, {.dhidden = *dhidden, .dtext = *dtext, .dvisual = *dvisual, .dlearned = *dlearned});
  expect(near(dtext.download(), rows_of(b.text, o.dtext, 0)), "dtext");
  expect(near(dvisual.download(), rows_of(b.visual, o.ordered(o.dvisual), 0)), "dvisual");
  out.dlearned = dlearned.download();

  // deepstack: twice, behind layers of its own
  sp::deepstack const deepstack(fusion);
  auto features = tensor(rows_of(b.visual, o.ordered(o.features), nan)), dfeatures = unset(b.visual.tokens());
  deepstack.forward(f, ctx, *features, *hidden);
  numbers sum = o.hidden;
  for (std::size_t i = 0; i < o.stream.size(); ++i)
    for (std::size_t c = 0; c < dim && o.stream[i].from == row_source::visual; ++c)
      sum[i * dim + c] += o.features[std::size_t(o.stream[i].at) * dim + c];
  expect(hidden.download() == rows_of(f.batch(), sum, 0), "deepstack");
  deepstack.backward(f, ctx, *dhidden, *dfeatures);
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

} // namespace
} // namespace test_fusion
