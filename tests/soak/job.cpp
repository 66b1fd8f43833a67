// A real job for the soak: ring attention over processes, forward and backward without end, until one rank leaves by force.
// job <folder> <rank> <step> kill|abort|exit: each rank writes its process id to the folder; the victim writes when it leaves.
#include <mpi.h>

#include <csignal>
#include <cstring>
#include <ctime>
#include <fstream>
#include <string>

#include <unistd.h>

#include <sp/batch.hpp>
#include <sp/cpu.hpp>
#include <sp/mpi.hpp>
#include <sp/ring.hpp>

namespace {

void note(std::string const& file, std::string const& text) {
  std::ofstream(file + ".part") << text << '\n';
  std::rename((file + ".part").c_str(), file.c_str()); // whoever reads it sees all of it
}

/// Writes the time and leaves: by SIGKILL, by abort(), or by an exit without a word to anybody.
void leave(std::string const& folder, char const* how) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  note(folder + "/left", std::to_string(double(now.tv_sec) + double(now.tv_nsec) * 1e-9));
  if (std::strcmp(how, "kill") == 0) std::raise(SIGKILL);
  if (std::strcmp(how, "abort") == 0) std::abort();
  ::_exit(7);
}

void pass(sp::mpi const& world, sp::pool& memory) {
  sp::ring_attention attn{world, sp::cpu<>{}, {.mask = sp::causal(), .schedule = sp::schedule::rotate}};
  sp::batch b(sp::packed{0, 9, 9, 24}, sp::zigzag{}, world);
  std::vector<float> in(std::size_t(b.tokens() * 8), 0.5f), out(in.size()), dq(in.size()), dk(in.size()), dv(in.size());
  auto tensor = [&](std::vector<float>& v) { return sp::view<float, 3>(v.data(), {b.tokens(), 2, 4}); };
  auto const q = tensor(in);
  auto prepared = attn.prepare(b);
  sp::context<> ctx{memory, memory, {}};
  auto saved = attn.forward(prepared, ctx, q, q, q, tensor(out));
  attn.backward(prepared, ctx, std::move(saved), q, q, q, tensor(out), q, tensor(dq), tensor(dk), tensor(dv));
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  MPI_Init(&argc, &argv);
  {
    sp::mpi world(MPI_COMM_WORLD, {.deadline = std::chrono::seconds(30)});
    std::string const folder = argv[1];
    note(folder + "/pid." + std::to_string(world.rank()), std::to_string(::getpid()));
    world.barrier();
    sp::pool memory;
    int const victim = std::atoi(argv[2]), at = std::atoi(argv[3]);
    for (int step = 0; step < at + 100000; ++step) {
      if (world.rank() == victim && step == at) leave(folder, argv[4]);
      pass(world, memory);
    }
  }
  MPI_Finalize();
  return 0;
}
