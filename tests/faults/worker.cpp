// One rank of a job that something happens to: started by mpirun from processes.py, which measures what becomes of the job.
// worker <scenario> <object> <rank> <call> [number]: at its call-th exchange the rank does what the scenario says. A line per event.
#include <sp/chaos.hpp>
#include <sp/collective/decorators/checksummed.hpp>
#include <sp/diagnosis.hpp>
#include <sp/mpi.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <thread>

#include <unistd.h>

#include "faults/step.hpp"

namespace {

using clock_type = std::chrono::steady_clock; // one clock for all processes of a machine
using sp::index_t;

double now() { return std::chrono::duration<double>(clock_type::now().time_since_epoch()).count(); }

/// A communicator that calls `action` before its call-th exchange, counted over the groups split from it.
template <class C>
class hooked {
public:
  using memory_type = typename C::memory_type;
  struct state {
    index_t call = -1, calls = 0;
    std::function<void()> action{};
  };
  hooked(C inner, std::shared_ptr<state> s) : inner_(std::move(inner)), state_(std::move(s)) {}
  int rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }
  [[nodiscard]] auto exchange(sp::traffic const& t) const {
    if (state_->calls++ == state_->call) state_->action();
    return inner_.exchange(t);
  }
  auto split(int color, int key) const { return hooked(inner_.split(color, key), state_); }

private:
  C inner_;
  std::shared_ptr<state> state_;
};

struct orders {
  std::string scenario;
  faults::object object{};
  int rank = -1;
  index_t call = -1;
  long number = 0;
};

/// Prints one line at once: ranks share the terminal, and some of them will not come to their end.
template <class... A>
void say(char const* format, A... a) {
  char line[1000];
  int const n = std::snprintf(line, sizeof line, format, a...);
  if (write(1, line, std::size_t(std::min(n, int(sizeof line) - 1))) < 0) _exit(9);
}

/// What the rank does that the scenario is about.
void act(orders const& o, int rank) {
  say("event rank=%d time=%.6f pid=%d\n", rank, now(), int(getpid()));
  if (o.scenario == "throw") throw std::runtime_error("out of coffee");
  if (o.scenario == "kill") std::raise(SIGKILL);
  if (o.scenario == "stop") std::raise(SIGSTOP);
  if (o.scenario == "exit0") _exit(0);
  if (o.scenario == "late") std::this_thread::sleep_for(std::chrono::milliseconds(o.number));
}

std::uint64_t digest_of(std::vector<double> const& v) {
  std::uint64_t h = 1469598103934665603u;
  for (double x : v) {
    std::uint64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    h = (h ^ bits) * 1099511628211u;
  }
  return h;
}

/// The body of one rank; scenario `good` and those of single messages do three steps, the others go on until something happens.
void body(sp::mpi const& world, orders const& o) {
  bool const mine = world.rank() == o.rank;
  auto watch = std::make_shared<hooked<sp::mpi>::state>();
  if (mine) watch->call = o.call, watch->action = [&] { act(o, world.rank()); };
  hooked<sp::mpi> const comm(world, watch);
  faults::step(comm, o.object); // everybody is there and warm
  world.barrier();
  watch->calls = 0;
  if (o.scenario == "good") {
    for (int i = 0; i < 3; ++i) faults::step(comm, o.object);
  } else if (o.scenario == "return") {
    if (mine) return;
    while (true) faults::step(comm, o.object);
  } else if (o.scenario == "mismatch") {
    faults::step(comm, o.object, int(o.number), mine ? 4 : 2);
  } else if (o.scenario == "levels") {
    faults::step(comm, o.object, mine ? 2 : 1);
  } else if (o.scenario == "delay") {
    sp::chaos const slow(world, {.seed = std::uint64_t(o.number), .max_delay = std::chrono::microseconds(o.number ? 400 : 0)});
    say("digest rank=%d value=%016llx\n", world.rank(), static_cast<unsigned long long>(digest_of(faults::step(slow, o.object))));
  } else if (o.scenario == "truncate" || o.scenario == "duplicate" || o.scenario == "corrupt") {
    sp::chaos_options c;
    (o.scenario == "truncate" ? c.truncate_at : o.scenario == "duplicate" ? c.duplicate_at : c.corrupt_at) = mine ? o.call : -1;
    sp::chaos const bad(world, c);
    if (o.scenario == "corrupt")
      faults::step(sp::checksummed(bad), o.object);
    else
      faults::step(bad, o.object);
    world.barrier();
  } else if (o.scenario == "abort") {
    struct joined {
      std::thread t;
      ~joined() {
        if (t.joinable()) t.join();
      }
    } outside;
    if (mine)
      outside.t = std::thread([&] {
        std::this_thread::sleep_for(std::chrono::microseconds(o.number));
        say("event rank=%d time=%.6f pid=%d\n", world.rank(), now(), int(getpid()));
        world.abort({sp::errc::backend_error, "the power went", "Buy a battery"});
      });
    while (true) faults::step(comm, o.object);
  } else {
    while (true) faults::step(comm, o.object);
  }
}

/// Every rank throws at every exchange of every object, one after the other in one job; rank 0 prints how long the others took.
void throw_everywhere(int rank, int size) {
  std::vector<double> times;
  int wrong = 0;
  for (faults::object o : faults::objects)
    for (int victim = 0; victim < size; ++victim)
      for (index_t call = 0;; ++call) {
        double thrown = 0, left = 0;
        int fired = 0, bad = 0;
        try {
          sp::mpi::run(MPI_COMM_WORLD,
                       [&](sp::mpi const& world) {
                         auto watch = std::make_shared<hooked<sp::mpi>::state>();
                         if (rank == victim)
                           watch->call = call, watch->action = [&] {
                             fired = 1;
                             thrown = now();
                             throw std::runtime_error("out of coffee");
                           };
                         faults::step(hooked<sp::mpi>(world, watch), o);
                         world.barrier(); // who is done waits for the others
                       },
                       {.deadline = std::chrono::seconds(30)});
        } catch (sp::error const& e) {
          // a token in flight dies before the exception has left the body: some hear of that, and that an exception follows
          bad = e.code() != sp::errc::aborted || e.info().peer != victim ||
                !(std::strstr(e.what(), "out of coffee") || std::strstr(e.what(), "An exception was on its way"));
          if (bad) say("wrong rank=%d victim=%d call=%d what=%.600s\n", rank, victim, int(call), e.what());
        } catch (std::runtime_error const&) {
          bad = rank != victim;
        }
        left = now();
        MPI_Bcast(&thrown, 1, MPI_DOUBLE, victim, MPI_COMM_WORLD);
        MPI_Bcast(&fired, 1, MPI_INT, victim, MPI_COMM_WORLD);
        double const mine = rank == victim ? 0 : left - thrown;
        double slowest = 0;
        int any_bad = 0;
        MPI_Allreduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
        MPI_Allreduce(&bad, &any_bad, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
        wrong += any_bad;
        if (!fired) break; // this rank makes fewer exchanges
        times.push_back(slowest);
      }
  std::sort(times.begin(), times.end());
  if (rank == 0)
    say("throws count=%d wrong=%d median_ms=%.3f max_ms=%.3f\n", int(times.size()), wrong, 1e3 * times[times.size() / 2],
        1e3 * times.back());
}

/// How this rank heard of a throw in rank 0, or that the throw was its own.
struct hearing {
  double seconds = 0, step = 0; ///< since the throw; of a step of attention that it computes
  bool good = false;
};

/// Rank 0 throws after `records` operations that fill the flight records of all, while the others wait for it or compute together.
hearing hear_of_throw(int rank, bool computing, int records, int round) {
  hearing h;
  double thrown = 0;
  try {
    sp::mpi::run(MPI_COMM_WORLD,
                 [&](sp::mpi const& world) {
                   auto const self = world.split(rank, 0), others = world.split(rank != 0, 0);
                   sp::batch const b(sp::packed{0, 64}, sp::zigzag{}, others);
                   support::attention_tensors<double> x(b, {4, 2, 8, 8});
                   sp::ring_attention const attention{others, sp::reference{}};
                   sp::pool memory;
                   auto step = [&] { x.both(attention, attention.prepare(b), {memory, memory}); };
                   double const begin = now();
                   if (computing && rank != 0) step();
                   h.step = now() - begin;
                   for (int i = 0; i < records; ++i) self.barrier();
                   world.barrier();
                   while (rank != 0) computing ? step() : world.barrier();
                   std::this_thread::sleep_for(std::chrono::milliseconds(20 + 7 * round));
                   thrown = now();
                   throw std::runtime_error("out of coffee");
                 },
                 {.deadline = std::chrono::seconds(30), .flight_records = std::max(records, 64)});
  } catch (sp::error const& e) {
    h.good = e.code() == sp::errc::aborted && e.info().peer == 0 && rank != 0;
  } catch (std::runtime_error const&) {
    h.good = rank == 0;
  }
  double const left = now();
  MPI_Bcast(&thrown, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
  if (rank != 0) h.seconds = left - thrown;
  return h;
}

/// How long the last of all ranks takes to hear of a throw: without and with files of so many flight records, waiting and computing.
void throw_at_busy_ranks(int rank, int most_records) {
  namespace fs = std::filesystem;
  long pid = getpid();
  MPI_Bcast(&pid, 1, MPI_LONG, 0, MPI_COMM_WORLD);
  fs::path const folder = fs::temp_directory_path() / ("sp_faults." + std::to_string(pid));
  if (rank == 0) fs::create_directories(folder);
  MPI_Barrier(MPI_COMM_WORLD);
  fs::path const mine = folder / ("flight." + std::to_string(rank));
  for (bool computing : {false, true})
    for (int records : {0, most_records}) {
      sp::diagnosis::configure({.flight_file = records ? (folder / "flight.%r").string() : std::string()});
      std::vector<double> times;
      double wrong = 0, longest_step = 0;
      for (int round = 0; round < 5; ++round) {
        hearing const h = hear_of_throw(rank, computing, records, round);
        double const good = h.good && fs::remove(mine) == (records > 0); // it has written its file, if it was asked to
        double const own[] = {h.seconds, h.step, 1 - good};
        double worst[3];
        MPI_Allreduce(own, worst, 3, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
        times.push_back(worst[0]);
        longest_step = std::max(longest_step, worst[1]);
        wrong += worst[2];
      }
      std::sort(times.begin(), times.end());
      if (rank == 0)
        say("told computing=%d records=%d wrong=%.0f median_ms=%.2f max_ms=%.2f step_ms=%.0f\n", computing, records, wrong,
            1e3 * times[times.size() / 2], 1e3 * times.back(), 1e3 * longest_step);
    }
  if (rank == 0) fs::remove_all(folder);
}

/// How this rank ended, for the exit code: 0 well, 3 an error that MPI survives, 4 peers that may never answer again.
int ended(int rank, double begin, sp::error const& e) {
  say("ended rank=%d time=%.6f seconds=%.3f code=%s peer=%d what=%.600s\n", rank, now(), now() - begin, sp::name(e.code()),
      e.info().peer, e.what());
  return e.code() == sp::errc::timeout ? 4 : 3;
}

} // namespace

int main(int argc, char** argv) {
  int level = 0, rank = 0, size = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (argc < 5) _exit(8);
  orders o{argv[1], {}, std::atoi(argv[3]), std::atol(argv[4]), argc > 5 ? std::atol(argv[5]) : 0};
  for (faults::object x : faults::objects)
    if (faults::name(x) == argv[2]) o.object = x;
  int code = 0;
  double const begin = now();
  if (o.scenario == "throws") {
    throw_everywhere(rank, size);
  } else if (o.scenario == "busy") {
    throw_at_busy_ranks(rank, int(o.number));
  } else {
    try {
      sp::mpi::run(MPI_COMM_WORLD, [&](sp::mpi const& world) { body(world, o); }, {.deadline = std::chrono::milliseconds(1500)});
      say("ended rank=%d time=%.6f code=none peer=-1 what=\n", rank, now());
    } catch (sp::error const& e) {
      code = ended(rank, begin, e);
    } catch (std::exception const& e) {
      say("ended rank=%d time=%.6f code=thrown peer=-1 what=%.600s\n", rank, now(), e.what());
      code = 3;
    }
  }
  if (code == 4) {                                               // MPI_Finalize would wait for a process that does not answer
    std::this_thread::sleep_for(std::chrono::milliseconds(700)); // mpirun ends all others then: they have a word to say
    _exit(code);
  }
  MPI_Finalize();
  return code;
}
