// What one rank of an sp::mpi_shared keeps: a group of its own, shared memory, and the publications that are open.
// No call of MPI that blocks is made: ranks tell each other where their memory lies, and all waits are those of sp::mpi.
#pragma once

#include <sp/collective/mpi/group.hpp>
#include <sp/collective/mpi/node_memory.hpp>

namespace sp::detail {

class mpi_node {
public:
  /// Collective over `group`, which is nobody else's. Refuses, on all ranks, ranks that cannot open each other's memory.
  explicit mpi_node(std::shared_ptr<mpi_group> group) : group_(std::move(group)), memory_(group_->rank(), group_->size()) {
    int rank = -1, peer = -1; // the first rank that cannot, and whose memory
    segment_problem problem;
    group_->operation(operation_kind::barrier, "sp::mpi_shared", 0, [&] {
      operation_id const join{operation_id::join, "sp::mpi_shared"};
      auto const proof = memory_.take(memory_.block_bytes(1));
      auto owners = group_->all_gather(join, {memory_.self().process, memory_.self().secret, proof.descriptor});
      for (int r = 0; r < int(owners.size()) && peer < 0; ++r) {
        auto const& [process, secret, descriptor] = owners[std::size_t(r)];
        if (r != group_->rank()) memory_.set_owner(r, {process, secret});
        if (!memory_.at(r, {0, std::int32_t(descriptor), 0}, problem)) peer = r;
      }
      for (auto const& cannot : group_->all_gather(join, {peer, 0, 0})) {
        ++rank;
        peer = int(cannot[0]);
        if (peer >= 0) break;
      }
      // Memory that cannot be opened may be that of a rank that has failed and gone: who has not comes here too, else its words do.
      if (peer >= 0) group_->barrier_of(join);
      memory_.give(proof, memory_.block_bytes(1));
    });
    if (peer < 0) return;
    fail({errc::bad_state,
          "rank " + std::to_string(rank) + " cannot open the memory of rank " + std::to_string(peer) +
              (rank == group_->rank() ? " (" + problem.text + ")" : "") + group_->world_text(rank, peer),
          "Ranks of one sp::mpi_shared run on one machine, as one user, in one container: split the communicator before",
          "sp::mpi_shared", group_->rank(), group_->size(), -1, peer});
  }
  mpi_node(mpi_node const&) = delete;

  mpi_node_memory& memory() { return memory_; }

  std::uint64_t publish(char const* primitive, std::span<piece const> mine) {
    for (piece const& p : mine) // the list is memory of this process
      if (!p.rows.empty())
        fail({errc::bad_state, "a piece that lists its rows was published", "Publish whole tensors", primitive, group_->rank(),
              group_->size()});
    std::uint64_t const number = published_;
    publication& p = at(number);
    group_->operation(operation_kind::publish, primitive, total_bytes(mine), [&] {
      if (p.open) group_->refuse_publication(group_->rank(), primitive);
      ++published_;
      p.open = true;
      p.primitive = primitive;
      p.bytes = size_of(mine);
      p.where = memory_.take(p.bytes);
      write(p, mine);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      auto const everybodys = group_->all_gather({operation_id::publish, primitive, std::int64_t(number)},
                                                 {p.where.segment, p.where.descriptor, p.where.at});
      std::atomic_thread_fence(std::memory_order_seq_cst);
      p.pieces.resize(everybodys.size());
      for (int r = 0; r < int(everybodys.size()); ++r) {
        auto const& [segment, descriptor, at] = everybodys[std::size_t(r)];
        read(p.pieces[std::size_t(r)], r, {std::int32_t(segment), std::int32_t(descriptor), at}, primitive);
      }
    });
    return number;
  }
  std::span<piece const> published(int rank, std::uint64_t number) { return at(number).pieces[std::size_t(rank)]; }

  void release(std::uint64_t number) {
    publication& p = at(number);
    group_->operation(operation_kind::release, p.primitive, 0, [&] {
      std::atomic_thread_fence(std::memory_order_seq_cst); // what was written into the memory of peers is there before they go on
      group_->barrier_of({operation_id::release, p.primitive, std::int64_t(number)});
      std::atomic_thread_fence(std::memory_order_seq_cst);
      memory_.give(p.where, p.bytes);
      memory_.give_back_unused();
      p.open = false;
    });
  }
  /// A publication died unreleased: the family ends. Its block stays taken, so that no reader sees other data.
  void drop(std::uint64_t number) noexcept {
    if (mpi_is_running()) group_->drop_publication(at(number).primitive);
  }

private:
  using place = mpi_node_memory::place;
  struct publication {
    bool open = false;
    char const* primitive = "";
    index_t bytes = 0; ///< of the block
    place where;
    std::vector<std::vector<piece>> pieces; ///< everybody's, as this process sees them
  };
  // A block begins with this head; the numbers of its owner's segments follow, then the pieces, then copies of what lies elsewhere.
  struct block_head {
    index_t pieces = 0, segments = 0;
  };
  /// A piece on its way: `shape` without its pointer.
  struct published_piece {
    place where;
    piece shape;
  };

  publication& at(std::uint64_t number) { return open_[number % mpi_group::publications]; }

  /// Addresses that a piece covers.
  static std::pair<std::byte const*, std::byte const*> range(piece const& p) {
    index_t low = 0, high = p.element;
    for (int d = 0; d < p.rank; ++d) {
      index_t const reach = (p.extents[std::size_t(d)] - 1) * p.strides[std::size_t(d)];
      (reach < 0 ? low : high) += reach;
    }
    return {p.data + low, p.data + high};
  }
  bool in_place(piece const& p) const {
    auto const [low, high] = range(p);
    return memory_.find(low, high).segment >= 0;
  }
  static piece dense(piece p, std::byte* data) {
    index_t step = p.element;
    for (int d = p.rank; d-- > 0;) {
      p.strides[std::size_t(d)] = step;
      step *= p.extents[std::size_t(d)];
    }
    p.data = data;
    return p;
  }
  static index_t offset_of_pieces(index_t segments) {
    return round_up(index_t(sizeof(block_head)) + segments * index_t(sizeof(std::int32_t)), index_t(alignof(published_piece)));
  }
  static index_t list_bytes(index_t pieces, index_t segments) {
    return mpi_node_memory::block_bytes(offset_of_pieces(segments) + pieces * index_t(sizeof(published_piece)));
  }
  /// What a block for these pieces takes: the lists, and room for those that lie elsewhere.
  index_t size_of(std::span<piece const> mine) const {
    index_t n = list_bytes(index_t(mine.size()), index_t(memory_.most_segments()));
    for (piece const& p : mine)
      if (p.bytes() > 0 && !in_place(p)) n += mpi_node_memory::block_bytes(p.bytes());
    return n;
  }
  void write(publication const& pub, std::span<piece const> mine) {
    std::byte* const block = memory_.at(pub.where);
    auto const segments = memory_.segments();
    block_head const head{index_t(mine.size()), index_t(segments.size())};
    std::memcpy(block, &head, sizeof head);
    std::memcpy(block + sizeof head, segments.data(), segments.size() * sizeof(std::int32_t));
    std::byte* list = block + offset_of_pieces(head.segments);
    index_t used = list_bytes(head.pieces, head.segments);
    for (piece const& p : mine) {
      published_piece s{{}, p};
      if (p.bytes() > 0 && in_place(p)) {
        s.where = memory_.find(range(p).first, range(p).second);
        s.where.at += p.data - range(p).first;
      } else if (p.bytes() > 0) {
        s.shape = dense(p, block + used);
        copy({&s.shape, 1}, {&p, 1});
        s.where = pub.where;
        s.where.at += used;
        used += mpi_node_memory::block_bytes(p.bytes());
      }
      s.shape.data = nullptr;
      std::memcpy(list, &s, sizeof s);
      list += sizeof s;
    }
  }
  /// What `rank` has published in the block at `where`.
  void read(std::vector<piece>& pieces, int rank, place where, char const* primitive) {
    std::byte const* const block = seen(rank, where, primitive);
    block_head head;
    std::memcpy(&head, block, sizeof head);
    kept_.resize(std::size_t(head.segments));
    std::memcpy(kept_.data(), block + sizeof head, kept_.size() * sizeof(std::int32_t));
    memory_.keep_only(rank, kept_);
    std::byte const* list = block + offset_of_pieces(head.segments);
    pieces.resize(std::size_t(head.pieces));
    for (piece& p : pieces) {
      published_piece s;
      std::memcpy(&s, list, sizeof s);
      list += sizeof s;
      p = s.shape;
      if (s.where.segment >= 0) p.data = seen(rank, s.where, primitive);
    }
  }
  std::byte* seen(int rank, place where, char const* primitive) {
    segment_problem problem;
    std::byte* const data = memory_.at(rank, where, problem);
    if (data) return data;
    if (problem.gone) group_->throw_failure_on_its_way(primitive); // a rank that fails takes its memory with it
    fail({errc::backend_error, "the memory of rank " + std::to_string(rank) + " cannot be opened (" + problem.text + ")",
          "Look at the limits of memory and of open files (ulimit -v, ulimit -n)", primitive, group_->rank(), group_->size(), -1,
          rank});
  }

  std::shared_ptr<mpi_group> group_;
  mpi_node_memory memory_;
  std::array<publication, mpi_group::publications> open_{};
  std::uint64_t published_ = 0;
  std::vector<std::int32_t> kept_;
};

} // namespace sp::detail
