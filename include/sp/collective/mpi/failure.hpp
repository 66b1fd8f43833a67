// How a failure travels to the other processes: a fixed head and four texts, cut to what a control message holds, between characters.
// Reading checks every length, so that a damaged message cannot do more than lose text.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <sp/collective/family/failure.hpp>
#include <sp/collective/mpi/link.hpp>
#include <sp/diagnosis/text.hpp>

namespace sp::detail {

class failure_message {
public:
  static constexpr std::size_t bytes = mpi_link::smallest_capacity - sizeof(mpi_control);

  static void write(failure const& f, std::byte* to) {
    head const h{std::int32_t(f.info.code),
                 f.info.rank,
                 f.info.size,
                 f.info.step,
                 f.info.peer,
                 f.world,
                 f.group,
                 f.one,
                 f.other,
                 f.provisional};
    std::memcpy(to, &h, sizeof h);
    std::size_t at = sizeof h;
    for (std::string const* text : {&f.info.primitive, &f.why, &f.info.problem, &f.info.remedy}) {
      std::size_t const room = bytes - at - sizeof(std::uint32_t) * 4, limit = text == &f.info.primitive ? 60 : room / 2;
      auto const n = std::uint32_t(text->size() <= limit ? text->size() : whole_characters({text->data(), limit}).size());
      std::memcpy(to + at, &n, sizeof n);
      std::memcpy(to + at + sizeof n, text->data(), n);
      at += sizeof n + n;
    }
  }

  static failure read(std::byte const* from, std::size_t size) {
    failure f;
    head h;
    if (size < sizeof h) return f;
    std::memcpy(&h, from, sizeof h);
    bool const known = h.code >= 0 && h.code < detail::errc_count;
    f.info.code = known ? errc(h.code) : errc::backend_error;
    f.info.rank = h.rank;
    f.info.size = h.size;
    f.info.step = h.step;
    f.info.peer = h.peer;
    f.world = h.world;
    f.group = h.group;
    f.one = h.one;
    f.other = h.other;
    f.provisional = h.provisional != 0;
    std::size_t at = sizeof h;
    for (std::string* text : {&f.info.primitive, &f.why, &f.info.problem, &f.info.remedy}) {
      std::uint32_t n = 0;
      if (at + sizeof n > size) break;
      std::memcpy(&n, from + at, sizeof n);
      at += sizeof n;
      if (n > size - at) break;
      text->assign(reinterpret_cast<char const*>(from + at), n);
      at += n;
    }
    return f;
  }

private:
  struct head {
    std::int32_t code, rank, size, step, peer, world, group, one, other, provisional;
  };
};

/// For an error: what is left of exchanges with direct parcels when their deadline is over. World ranks, as groups have others.
inline std::string memory_held_text(std::vector<int> peers) {
  std::sort(peers.begin(), peers.end());
  peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
  std::string text = "a message between this rank and ";
  for (std::size_t i = 0; i < peers.size(); ++i) text += (i ? ", world rank " : "world rank ") + std::to_string(peers[i]);
  return text + " is still under way, and MPI holds the memory of its exchange: do not use or free it";
}
inline failure broken_link(mpi_link const& link) {
  failure f;
  f.info = {errc::backend_error,
            std::string(link.failed_call()) + " failed, " + mpi_error_text(link.error()),
            "See the text of your MPI",
            "",
            link.rank(),
            link.size()};
  f.world = f.one = f.other = link.rank();
  f.group = failure::every_group;
  return f;
}
/// Whose receiver threw: what it threw is the cause, if it leaves the body of run().
inline failure lost_message(mpi_link const& link) {
  failure f;
  f.provisional = true;
  f.info = {errc::bad_state, "an exception came while a message was read", "See what this rank threw", "", link.rank(),
            link.size()};
  return f;
}

/// Best effort: without memory for one more message those that are told already tell the others.
inline void send_failure(mpi_link& link, int to, failure const& f, bool to_everybody) {
  mpi_control n;
  n.kind = mpi_control::failure;
  n.purpose = to_everybody;
  best_effort([&] { link.send(to, n, failure_message::bytes, [&](std::byte* at) { failure_message::write(f, at); }); });
}

/// Ranks 2^k further on hear first. Who finds a failure goes on and tells all others too; who hears of one tells those log2(ranks)
/// only, in case the first teller does not come to its end. Where several find one at the same time, one of them is enough: a
/// rank stops when go_on(), asked now and then, says that a lower one has begun.
template <class GoOn>
void propagate_failure(mpi_link& link, failure const& f, bool to_everybody, GoOn&& go_on) {
  int const size = link.size();
  for (int d = 1; d < size; d *= 2) send_failure(link, (link.rank() + d) % size, f, to_everybody);
  for (int d = 3; to_everybody && d < size; ++d) {
    if ((d & (d - 1)) != 0) send_failure(link, (link.rank() + d) % size, f, true);
    if (d % 4 == 0 && !go_on()) return;
  }
}

} // namespace sp::detail
