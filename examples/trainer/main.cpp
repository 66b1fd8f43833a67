// sp_trainer: trains a small language model on real text, by one rank and by several, and shows that the numbers are the same.
// Exit codes: 0 all is well, 1 a number is off (it says which), 2 the options, the text or the output folder cannot be used, 77 there is
// no device to run on.
#include "options.hpp"
#include "report/output.hpp"
#include "report/report.hpp"
#include "report/work.hpp"
#include "training/compare.hpp"
#include "training/run.hpp"

namespace {

using namespace trainer;

void run_all(report& r, ranks& us, progress& show) {
  for (bool in_double : {false, true}) { // the model; on a device attention may be in bf16
    std::size_t first = r.outcomes.size();
    for (plan const& p : r.plans) {
      int steps = in_double ? r.asked.double_steps : r.asked.steps;
      r.outcomes.push_back(in_double ? run_double(us, p, r.asked, *r.text, steps, show)
                                     : run_float(us, p, r.asked, *r.text, steps, show));
      if (!us.lead()) continue;
      compare(r.outcomes.back(), r.outcomes[first], parameter_table(r.asked.model), r.asked.compared_steps);
      r.outcomes.back().imbalance = imbalance(p, r.first_step, r.asked.model);
    }
  }
}

void describe(report const& r) {
  corpus const& t = *r.text;
  fmt::print("text     {} files, {} bytes in {} documents", t.files, t.bytes, t.documents.size());
  if (t.binary) fmt::print("; {} binary files skipped", t.binary);
  if (t.unreadable) fmt::print("; {} unreadable files skipped", t.unreadable);
  if (t.truncated) fmt::print("; there is more, the rest is not used");
  fmt::print("\nmodel    {} parameters: {}, SwiGLU {}\n", r.parameters, layers_of(r.asked.model), r.asked.model.hidden);
  fmt::print("steps    {} in {}, {} in double, {} packed tokens each\n\n", r.asked.steps, r.asked.type_of<float>(),
             r.asked.double_steps, r.asked.stream);
}

int conclude(report const& r) {
  auto wrong = complaints(r);
  outcome const& one = r.outcomes.front();
  if (wrong.empty()) {
    double part = required_fall(one.losses.size());
    fmt::print(
        "All strategies agree with one rank{}; the loss went from {:.3f} to {:.3f} (mean of the last three steps), {}. {:.0f} s "
        "in all.\n",
        in_compared_steps(r.asked), one.losses.front(), final_loss(one),
        std::isinf(part) ? std::string("too few steps to require a fall")
                         : fmt::format("below {:.3f} was required", part * one.losses.front()),
        r.seconds);
    return 0;
  }
  for (std::string const& w : wrong) fmt::print(stderr, "sp_trainer: {}\n", w);
  return 1;
}

int train(settings const& asked, corpus const& text, ranks& us) {
  report r{asked,
           &text,
           parameter_table(asked.model).size(),
           all_plans(us.most(), asked.schedule),
           reader(text, asked.stream, asked.seed).next(),
           {},
           0,
           ranks::are(),
           us.cores(),
           std::nullopt};
  if (us.lead()) describe(r);
  progress show(double(r.plans.size()) * double(asked.stream) * (asked.steps + asked.double_steps));
  if (!asked.on_device) r.slopes = gradient_error(us, asked, text);
  run_all(r, us, show);
  if (!us.lead()) return 0;
  r.seconds = show.seconds_in_all();
  print_table(r);
  write_json(r, asked.out / "train.json");
  write_html(r, asked.out / "report.html");
  fmt::print("Wrote {} and {}.\n", (asked.out / "train.json").string(), (asked.out / "report.html").string());
  return conclude(r);
}

/// The exit code of f(). What cannot be used is the same for all processes: one says so.
template <class F>
int guarded(ranks const& us, F const& f) {
  auto complain = [&](std::exception const& e, int code) {
    if (us.lead() || code == 1) fmt::print(stderr, "sp_trainer: {}\n", e.what());
    return code;
  };
  try {
    return f();
  } catch (bad_text const& e) {
    return complain(e, 2);
  } catch (unusable const& e) {
    return complain(e, 2);
  } catch (std::filesystem::filesystem_error const& e) {
    return complain(e, 2);
  } catch (std::exception const& e) {
    return complain(e, 1);
  }
}

} // namespace

int main(int argc, char** argv) {
  ranks us(argc, argv);
  settings asked;
  asked.on_device = ranks::on_device;
  if (auto code = read_options(argc, argv, us.lead(), asked)) return *code;
  if (std::string const why = us.missing(); !why.empty()) {
    fmt::print(stderr, "skipped: {}\n", why);
    return 77;
  }
  corpus text;
  int code = us.agree(guarded(us, [&] {
    if (us.most() < 2) throw unusable("there is one rank only; start 2 or more: examples/run.sh --mpi 4");
    text = read_corpus(asked.text, asked.longest);
    if (us.lead()) claim_output(asked.out);
    return 0;
  }));
  if (code == 0) code = us.agree(guarded(us, [&] { return train(asked, text, us); }));
  return code;
}
