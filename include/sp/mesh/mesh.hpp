// A mesh: the ranks of a program on named axes, in row-major order (the last axis is the fastest).
// Arithmetic is constexpr; groups along axes are made by splitting a communicator, or adopted from the caller and checked.
#pragma once

#include <array>
#include <concepts>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sp/mesh/group.hpp>

namespace sp {

/// What the ranks along an axis share. sp gives meaning to data, fsdp, ring and ulysses; anything else is custom.
enum class axis_kind { data, fsdp, ring, ulysses, custom };

namespace axis {

/// An axis of `size` ranks. The characters of the name must outlive the mesh: use a literal.
struct named {
  std::string_view name;
  int size = 1;
  axis_kind kind = axis_kind::custom;
  constexpr named(std::string_view n, int s, axis_kind k = axis_kind::custom) : name(n), size(s), kind(k) {}
};
/// Replicas of the model; each reads data of its own.
struct data : named {
  explicit constexpr data(int n) : named("data", n, axis_kind::data) {}
};
/// Ranks that shard parameters; each reads data of its own.
struct fsdp : named {
  explicit constexpr fsdp(int n) : named("fsdp", n, axis_kind::fsdp) {}
};
/// Ranks between which keys and values travel.
struct ring : named {
  explicit constexpr ring(int n) : named("ring", n, axis_kind::ring) {}
};
/// Ranks that exchange heads for tokens.
struct ulysses : named {
  explicit constexpr ulysses(int n) : named("ulysses", n, axis_kind::ulysses) {}
};

/// Picks an axis by kind or by name; made without a word, so that axes are written {axis_kind::ring, "expert"}.
struct pick {
  axis_kind kind = axis_kind::custom;
  std::string_view name{};
  constexpr pick(axis_kind k) : kind(k) {}
  constexpr pick(std::string_view n) : name(n) {}
  constexpr pick(char const* n) : name(n) {}
  constexpr bool matches(named const& a) const { return name.empty() ? kind == a.kind : name == a.name; }
};

} // namespace axis

/// Which axes a group spans.
using axes = std::initializer_list<axis::pick>;

/// Ranks as a grid with named axes; groups along one axis, or along several, are split from a communicator of all.
class mesh {
public:
  static constexpr int max_axes = 8;

  /// mesh{axis::data{2}, axis::ring{2}, axis::ulysses{4}}: ulysses groups are neighbours, ring groups are strided by 4.
  template <std::convertible_to<axis::named>... Axis>
  explicit constexpr mesh(Axis const&... list) : mesh(std::array<axis::named, sizeof...(Axis)>{list...}, 0) {
    static_assert(sizeof...(Axis) <= max_axes, "a mesh has at most eight axes");
  }
  /// The same from a list made at run time.
  explicit constexpr mesh(std::span<axis::named const> list) : mesh(list, 0) {}

  constexpr int size() const noexcept { return size_; }
  constexpr std::span<axis::named const> list() const noexcept { return {axes_.data(), std::size_t(count_)}; }
  /// Ranks along an axis; 1 if the mesh has no such axis.
  constexpr int extent(axis::pick p) const {
    int n = 1;
    for (axis::named const& a : list())
      if (p.matches(a)) n *= a.size;
    return n;
  }

  /// The coordinate of a rank on an axis; 0 if the mesh has no such axis.
  constexpr int coordinate(int rank, axis::pick p) const { return index_in(rank, {p}); }
  /// Coordinates of a rank, one per axis in the order of the mesh.
  constexpr std::vector<int> coordinates(int rank) const {
    check_rank(rank);
    std::vector<int> c;
    int inner = size_;
    for (axis::named const& a : list()) {
      inner /= a.size;
      c.push_back(rank / inner % a.size);
    }
    return c;
  }
  /// The rank with these coordinates.
  constexpr int rank_of(std::span<int const> coordinates) const {
    if (int(coordinates.size()) != count_)
      fail({errc::invalid_shape, std::to_string(coordinates.size()) + " coordinates for " + std::to_string(count_) + " axes",
            "Give one coordinate per axis"});
    int rank = 0;
    for (int a = 0; a < count_; ++a) {
      int c = coordinates[std::size_t(a)];
      if (c < 0 || c >= at(a).size)
        fail({errc::invalid_shape,
              "coordinate " + std::to_string(c) + " on axis " + std::string(at(a).name) + " of " + std::to_string(at(a).size),
              "0 <= coordinate < size of the axis"});
      rank = rank * at(a).size + c;
    }
    return rank;
  }

  /// Ranks in a group along these axes.
  constexpr int group_size(axes along) const {
    int n = 1;
    for (axis::named const& a : list())
      if (picked(along, a)) n *= a.size;
    return n;
  }
  /// My place in my group along these axes (row-major in the order of the mesh), which is also the rank there.
  constexpr int index_in(int rank, axes along) const { return linear(rank, along, true); }
  /// Which of the parallel groups along these axes a rank is in.
  constexpr int group_of(int rank, axes along) const { return linear(rank, along, false); }
  /// The ranks of my group along these axes, in group order.
  constexpr std::vector<int> members(int rank, axes along) const {
    int mine = group_of(rank, along);
    std::vector<int> out;
    for (int r = 0; r < size_; ++r) // ascending ranks are ascending places: both are row-major
      if (group_of(r, along) == mine) out.push_back(r);
    return out;
  }

  /// Ranks that share one sequence (ring x ulysses) and a rank's place among them.
  constexpr int sequence_size() const { return group_size({axis_kind::ring, axis_kind::ulysses}); }
  constexpr int sequence_rank(int rank) const { return index_in(rank, {axis_kind::ring, axis_kind::ulysses}); }
  /// Ranks that read different data (data x fsdp) and a rank's place among them: what data loading and loss count.
  constexpr int data_size() const { return group_size({axis_kind::data, axis_kind::fsdp}); }
  constexpr int data_rank(int rank) const { return index_in(rank, {axis_kind::data, axis_kind::fsdp}); }

  /// Distance, in ranks of the sequence group, between neighbours of a group along these axes. 1 for groups that span the
  /// whole sequence or none of it.
  constexpr int stride(axes along) const {
    int s = 1;
    bool inside = false, all = true;
    for (int a = count_; a-- > 0;) {
      if (!on_sequence(at(a))) continue;
      bool mine = picked(along, at(a));
      all = all && mine;
      inside = inside || mine;
      if (!inside) s *= at(a).size;
    }
    return inside && !all ? s : 1;
  }

  /// Both lay out the same ranks: a second factorisation, say for experts, must.
  [[nodiscard]] constexpr bool same_ranks(mesh const& other) const noexcept { return size_ == other.size_; }

  // Groups. Every rank of `comm` calls these in the same order: making a group is collective.

  /// My group along any axes, as mesh.along(comm, {axis_kind::ring, "expert"}).
  template <splittable Comm>
  [[nodiscard]] auto along(Comm const& comm, axes list) const {
    check_size(comm.size());
    return group(comm.split(group_of(comm.rank(), list), index_in(comm.rank(), list)), stride(list));
  }
  template <splittable Comm>
  [[nodiscard]] auto data(Comm const& comm) const {
    return along(comm, {axis_kind::data, axis_kind::fsdp});
  }
  template <splittable Comm>
  [[nodiscard]] auto ring(Comm const& comm) const {
    return along(comm, {axis_kind::ring});
  }
  template <splittable Comm>
  [[nodiscard]] auto ulysses(Comm const& comm) const {
    return along(comm, {axis_kind::ulysses});
  }
  /// Ring and ulysses together: the ranks that share a sequence.
  template <splittable Comm>
  [[nodiscard]] auto sequence(Comm const& comm) const {
    return along(comm, {axis_kind::ring, axis_kind::ulysses});
  }

  /// A communicator the caller already has along these axes, as a group. Its size must be theirs, and its rank the place of
  /// `world_rank` where that is given. Communicates nothing.
  template <communicator Comm>
  [[nodiscard]] group<Comm> adopt(Comm comm, axes list, int world_rank = -1) const {
    if (comm.size() != group_size(list))
      fail({errc::invalid_shape,
            "the communicator for " + names(list) + " has " + std::to_string(comm.size()) + " ranks, the mesh has " +
                std::to_string(group_size(list)) + " there",
            "Adopt the communicator of this axis, or change the mesh"});
    if (world_rank >= 0 && comm.rank() != index_in(world_rank, list))
      fail({errc::invalid_shape,
            "world rank " + std::to_string(world_rank) + " has rank " + std::to_string(comm.rank()) +
                " in the communicator for " + names(list) + ", the mesh puts it at " + std::to_string(index_in(world_rank, list)),
            "Order the ranks of the communicator as the axes of the mesh, or write the axes in its order"});
    return group<Comm>(std::move(comm), stride(list));
  }
  /// mesh.adopt<axis_kind::ring>(comm)
  template <axis_kind Kind, axis_kind... More, communicator Comm>
  [[nodiscard]] group<Comm> adopt(Comm comm, int world_rank = -1) const {
    return adopt(std::move(comm), {axis::pick(Kind), axis::pick(More)...}, world_rank);
  }

private:
  constexpr mesh(std::span<axis::named const> list, int) {
    if (list.size() > std::size_t(max_axes))
      fail({errc::invalid_shape, std::to_string(list.size()) + " axes, at most " + std::to_string(max_axes) + " are possible",
            "Join axes"});
    index_t n = 1;
    for (axis::named const& a : list) {
      if (a.size <= 0)
        fail({errc::invalid_shape, "axis " + std::string(a.name) + " has size " + std::to_string(a.size),
              "Every axis holds at least one rank"});
      for (axis::named const& b : this->list())
        if (a.name == b.name || (a.kind == b.kind && a.kind != axis_kind::custom))
          fail({errc::invalid_shape, "axis " + std::string(a.name) + " is there twice",
                "Give each axis once; custom axes need names of their own"});
      axes_[std::size_t(count_++)] = a;
      n = checked_mul(n, a.size);
      if (n > 0x7fffffff)
        fail({errc::size_overflow, "a mesh of " + std::to_string(n) + " ranks", "Ranks are counted in 31 bits"});
    }
    size_ = int(n);
  }

  constexpr axis::named const& at(int a) const { return axes_[std::size_t(a)]; }
  static constexpr bool on_sequence(axis::named const& a) { return a.kind == axis_kind::ring || a.kind == axis_kind::ulysses; }
  static constexpr bool picked(axes list, axis::named const& a) {
    for (axis::pick const& p : list)
      if (p.matches(a)) return true;
    return false;
  }
  static std::string names(axes list) {
    constexpr char const* kinds[] = {"data", "fsdp", "ring", "ulysses", "custom"};
    std::string s;
    for (axis::pick const& p : list)
      s += (s.empty() ? "" : " x ") + (p.name.empty() ? std::string(kinds[static_cast<int>(p.kind)]) : std::string(p.name));
    return s;
  }

  /// A rank's row-major number over the axes that are (or are not) picked.
  constexpr int linear(int rank, axes list, bool wanted) const {
    check_rank(rank);
    int n = 0, scale = 1;
    for (int a = count_; a-- > 0; rank /= at(a).size) {
      if (picked(list, at(a)) != wanted) continue;
      n += scale * (rank % at(a).size);
      scale *= at(a).size;
    }
    return n;
  }
  constexpr void check_rank(int rank) const {
    if (rank < 0 || rank >= size_)
      fail({errc::invalid_shape, "rank " + std::to_string(rank) + " of a mesh of " + std::to_string(size_), "0 <= rank < size"});
  }
  void check_size(int found) const {
    if (found != size_)
      fail({errc::invalid_shape,
            "the mesh has " + std::to_string(size_) + " ranks, the communicator has " + std::to_string(found),
            "The product of the axes must be the size of the communicator"});
  }

  std::array<axis::named, max_axes> axes_{unused, unused, unused, unused, unused, unused, unused, unused};
  static constexpr axis::named unused{"", 1};
  int count_ = 0;
  int size_ = 1;
};

} // namespace sp
