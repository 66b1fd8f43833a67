// What one rank of an sp::mpi_shared keeps: a group of its own, windows, and the publications that are open.
// No blocking MPI call is entered before every rank has said that it is about to enter it.
#pragma once

#include <sp/collective/mpi/window.hpp>

namespace sp::detail {

class mpi_node {
public:
  /// Collective over `group`, which is nobody else's. Refuses ranks of several nodes.
  explicit mpi_node(std::shared_ptr<mpi_group> group) : group_(std::move(group)) {
    int here = 0;
    group_->operation(operation_kind::barrier, "sp::mpi_shared", 0, [&] {
      group_->gather_before_blocking({meeting::join, "sp::mpi_shared"}, {});
      make_comm();
      here = ranks_of_this_node();
    });
    if (here == group_->size()) return;
    MPI_Comm_free(&comm_);
    fail({errc::bad_state,
          "only " + std::to_string(here) + " of " + std::to_string(group_->size()) + " ranks share memory with rank " +
              std::to_string(group_->rank()),
          "Split the communicator by node before", "sp::mpi_shared", group_->rank(), group_->size()});
  }
  mpi_node(mpi_node const&) = delete;
  /// Windows are freed if all ranks let go at about the same time, else they stay until the process ends.
  ~mpi_node() {
    if (!mpi_is_running() || !group_->agree_to_close()) return;
    memory_.free();
    MPI_Comm_free(&comm_);
  }

  allocator& memory() { return memory_; }

  std::uint64_t publish(char const* primitive, std::span<piece const> mine) {
    std::uint64_t const number = published_;
    publication& p = at(number);
    group_->operation(operation_kind::publish, primitive, total_bytes(mine), [&] {
      if (p.open) group_->refuse_publication(group_->rank(), primitive);
      ++published_;
      p.open = true;
      p.primitive = primitive;
      p.bytes = size_of(mine);
      p.where = memory_.take(p.bytes);
      index_t const missing = (p.where.window < 0 ? p.bytes : 0) + memory_.wanted();
      if (p.where.window >= 0) write(p, mine);
      everybody_ = group_->gather_before_blocking({meeting::publish, primitive, std::int64_t(number)}, location(p, missing));
      if (most_missing() > 0) { // everybody knows, and everybody is here
        memory_.grow(comm_, missing);
        if (p.where.window < 0) p.where = memory_.take(p.bytes);
        write(p, mine);
        everybody_ = group_->gather_values({meeting::grow, primitive, std::int64_t(number)}, location(p, 0));
      }
      read(p);
    });
    return number;
  }
  std::span<piece const> published(int rank, std::uint64_t number) { return at(number).pieces[std::size_t(rank)]; }

  void release(std::uint64_t number) {
    publication& p = at(number);
    group_->operation(operation_kind::release, p.primitive, 0, [&] {
      memory_.sync();
      std::atomic_thread_fence(std::memory_order_seq_cst);
      group_->meet({meeting::release, p.primitive, std::int64_t(number)});
      memory_.give(p.where, p.bytes);
      p.open = false;
    });
  }
  /// An exposure died unreleased: the family ends. Its block stays taken, so that no reader sees other data.
  void drop(std::uint64_t number) noexcept {
    if (mpi_is_running()) group_->drop_exposure(at(number).primitive);
  }

private:
  struct publication {
    bool open = false;
    char const* primitive = "";
    index_t bytes = 0; ///< of the block
    mpi_node_memory::place where;
    std::vector<std::vector<piece>> pieces; ///< everybody's, as this process sees them
  };
  /// A piece on its way: `shape` without its pointer.
  struct published_piece {
    mpi_node_memory::place where;
    piece shape;
  };

  publication& at(std::uint64_t number) { return open_[number % mpi_group::publications]; }

  void make_comm() {
    MPI_Group all = MPI_GROUP_NULL, mine = MPI_GROUP_NULL;
    MPI_Comm const root = group_->family().link().comm();
    mpi_check(MPI_Comm_group(root, &all), "MPI_Comm_group");
    mpi_check(MPI_Group_incl(all, group_->size(), group_->world_ranks().data(), &mine), "MPI_Group_incl");
    int const made = MPI_Comm_create_group(root, mine, mpi_link::first_data_tag + mpi_link::data_tags, &comm_);
    MPI_Group_free(&mine);
    MPI_Group_free(&all);
    mpi_check(made, "MPI_Comm_create_group");
  }
  int ranks_of_this_node() const {
    MPI_Comm node = MPI_COMM_NULL;
    mpi_check(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node), "MPI_Comm_split_type");
    int n = 0;
    MPI_Comm_size(node, &n);
    MPI_Comm_free(&node);
    return n;
  }

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
    return memory_.find(low, high).window >= 0;
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
  /// What a block for these pieces takes: the list, and room for those that lie elsewhere.
  index_t size_of(std::span<piece const> mine) const {
    index_t n = mpi_node_memory::block_bytes(index_t(sizeof(index_t) + mine.size() * sizeof(published_piece)));
    for (piece const& p : mine)
      if (p.bytes() > 0 && !in_place(p)) n += mpi_node_memory::block_bytes(p.bytes());
    return n;
  }
  void write(publication const& pub, std::span<piece const> mine) {
    std::byte* const block = memory_.at(group_->rank(), pub.where);
    auto const count = index_t(mine.size());
    std::memcpy(block, &count, sizeof count);
    index_t used = mpi_node_memory::block_bytes(index_t(sizeof(index_t) + mine.size() * sizeof(published_piece)));
    for (std::size_t i = 0; i < mine.size(); ++i) {
      published_piece s{{}, mine[i]};
      if (mine[i].bytes() > 0) {
        if (in_place(mine[i])) {
          s.where = memory_.find(range(mine[i]).first, range(mine[i]).second);
          s.where.at += mine[i].data - range(mine[i]).first;
        } else {
          s.shape = dense(mine[i], block + used);
          copy({&s.shape, 1}, {&mine[i], 1});
          s.where = {pub.where.window, pub.where.at + used};
          used += mpi_node_memory::block_bytes(mine[i].bytes());
        }
      }
      s.shape.data = nullptr;
      std::memcpy(block + sizeof(index_t) + i * sizeof(published_piece), &s, sizeof s);
    }
    memory_.sync();
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  static mpi_group::values location(publication const& p, index_t missing) { return {missing, p.where.window, p.where.at}; }
  index_t most_missing() const {
    index_t most = 0;
    for (mpi_control const& n : everybody_) most = max(most, index_t(n.values[0]));
    return most;
  }
  void read(publication& p) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    memory_.sync();
    p.pieces.resize(everybody_.size());
    for (int r = 0; r < int(everybody_.size()); ++r) {
      mpi_control const& n = everybody_[std::size_t(r)];
      std::byte const* const block = memory_.at(r, {int(n.values[1]), index_t(n.values[2])});
      index_t count = 0;
      std::memcpy(&count, block, sizeof count);
      std::vector<piece>& list = p.pieces[std::size_t(r)];
      list.resize(std::size_t(count));
      for (std::size_t i = 0; i < list.size(); ++i) {
        published_piece s;
        std::memcpy(&s, block + sizeof(index_t) + i * sizeof(published_piece), sizeof s);
        list[i] = s.shape;
        if (s.where.window >= 0) list[i].data = memory_.at(r, s.where);
      }
    }
  }

  std::shared_ptr<mpi_group> group_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  mpi_node_memory memory_;
  std::array<publication, mpi_group::publications> open_{};
  std::uint64_t published_ = 0;
  std::span<mpi_control const> everybody_; ///< of the last gather
};

} // namespace sp::detail
