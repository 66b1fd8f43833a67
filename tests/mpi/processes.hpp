// The conformance world whose ranks are processes: a trial of n ranks runs on the first n of them, the others wait asleep.
// Every process fills an outcome of its own; what it wrote is sent to process 0 by plain MPI, apart from the library.
#pragma once

#include <cstring>
#include <string>
#include <tuple>

#include "conformance/run.hpp"
#include "job.hpp"

namespace conformance {

using mpi_tests::process, mpi_tests::processes, mpi_tests::settle;

/// Everybody's strings, on rank 0; nothing elsewhere.
inline std::vector<std::string> gathered(MPI_Comm comm, std::string const& mine) {
  int rank = 0, size = 0;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  int const bytes = int(mine.size());
  std::vector<int> sizes(std::size_t(size), 0), begins(std::size_t(size) + 1, 0);
  MPI_Request request;
  MPI_Igather(&bytes, 1, MPI_INT, sizes.data(), 1, MPI_INT, 0, comm, &request);
  settle(request);
  for (std::size_t r = 0; r < sizes.size(); ++r) begins[r + 1] = begins[r] + sizes[r];
  std::string all(std::size_t(begins.back()), '\0');
  MPI_Igatherv(mine.data(), bytes, MPI_CHAR, all.data(), sizes.data(), begins.data(), MPI_CHAR, 0, comm, &request);
  settle(request);
  std::vector<std::string> out;
  for (std::size_t r = 0; rank == 0 && r < sizes.size(); ++r)
    out.push_back(all.substr(std::size_t(begins[r]), std::size_t(sizes[r])));
  return out;
}

/// The string of process 0, on every process.
inline std::string broadcast(std::string text) {
  int bytes = int(text.size());
  MPI_Request request;
  MPI_Ibcast(&bytes, 1, MPI_INT, 0, MPI_COMM_WORLD, &request);
  settle(request);
  text.resize(std::size_t(bytes));
  MPI_Ibcast(text.data(), bytes, MPI_CHAR, 0, MPI_COMM_WORLD, &request);
  settle(request);
  return text;
}

/// How a rank comes by its Comm: sp::mpi, or what is made of one.
template <class Comm>
struct rank_of {
  template <class Body>
  static void run(MPI_Comm part, Body const& body, sp::mpi_options const& options) {
    sp::mpi::run(
        part, [&](sp::mpi const& comm) { body(Comm(comm)); }, options);
  }
};

/// A world (see in_threads) of processes that speak through Comm.
template <class Comm>
class in_processes {
public:
  static constexpr bool peers_share_memory = sp::peer_memory<Comm>;

  /// A failure of a rank becomes a complaint, so that all processes go on to the next trial together.
  template <class T, class Body>
  void run(int ranks, outcome<T>& to, Body const& body) const {
    if (ranks > processes()) throw std::runtime_error("this trial needs " + std::to_string(ranks) + " processes");
    MPI_Comm const part = mpi_tests::first(ranks);
    if (part == MPI_COMM_NULL) return;
    auto tensors = std::tie(to.out, to.dq, to.dk, to.dv, to.lse);
    auto const before = std::make_tuple(to.out, to.dq, to.dk, to.dv, to.lse);
    try {
      rank_of<Comm>::run(part, [&](Comm const& comm) { body(comm, to); }, {.deadline = std::chrono::seconds(30)});
    } catch (std::exception const& e) {
      to.complain("process " + std::to_string(process()) + ": " + e.what());
    }
    auto const everybodys = gathered(part, packed(tensors, to.dsinks[std::size_t(process())], to.complaints));
    for (std::size_t r = 1; r < everybodys.size(); ++r) unpack(everybodys[r], tensors, before, to.dsinks[r], to.complaints);
  }

  /// What f() says on process 0, where the results are.
  template <class F>
  std::string decide(F const& f) const {
    std::string said;
    if (process() == 0) try {
        said = f();
      } catch (std::exception const& e) {
        said = e.what();
      }
    return broadcast(std::move(said));
  }

private:
  template <class E>
  static void put(std::string& bytes, std::vector<E> const& v) {
    bytes.append(reinterpret_cast<char const*>(v.data()), v.size() * sizeof(E));
  }
  /// All tensors, then how many dsinks and these, then the complaints.
  template <class Tensors, class E>
  static std::string packed(Tensors const& tensors, std::vector<E> const& dsinks, std::vector<std::string> const& complaints) {
    std::string bytes;
    std::apply([&](auto const&... v) { (put(bytes, v), ...); }, tensors);
    put(bytes, std::vector<std::size_t>{dsinks.size()});
    put(bytes, dsinks);
    for (auto const& c : complaints) bytes += c + '\n';
    return bytes;
  }

  template <class E>
  static std::vector<E> take(std::string const& bytes, std::size_t& at, std::size_t n) {
    std::vector<E> v(n);
    std::memcpy(v.data(), bytes.data() + at, n * sizeof(E));
    at += n * sizeof(E);
    return v;
  }
  /// Elements whose bits are not those from before the trial were written by that rank.
  template <class Tensors, class Before, class E>
  static void unpack(std::string const& bytes, Tensors& tensors, Before const& before, std::vector<E>& dsinks,
                     std::vector<std::string>& complaints) {
    std::size_t at = 0;
    auto merge = [&]<class V>(std::vector<V>& mine, std::vector<V> const& blank) {
      auto const theirs = take<V>(bytes, at, mine.size());
      for (std::size_t i = 0; i < mine.size(); ++i)
        if (std::memcmp(&theirs[i], &blank[i], sizeof(V)) != 0) mine[i] = theirs[i];
    };
    [&]<std::size_t... I>(std::index_sequence<I...>) { (merge(std::get<I>(tensors), std::get<I>(before)), ...); }
    (std::make_index_sequence<std::tuple_size_v<Before>>{});
    std::size_t const n = take<std::size_t>(bytes, at, 1)[0];
    dsinks = take<E>(bytes, at, n);
    for (std::size_t end; at < bytes.size(); at = end + 1) {
      end = bytes.find('\n', at);
      complaints.push_back(bytes.substr(at, end - at));
    }
  }
};

} // namespace conformance
