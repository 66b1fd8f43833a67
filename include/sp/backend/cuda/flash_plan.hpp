// The plan of cuda_flash: tiles and work of its three passes, as one table of integers in the memory of the queue.
// A kernel finds the lists of its pass behind the head of the table, so that a graph that was captured reads what was refreshed.
#pragma once

#include <sp/backend/cuda/flash_work.hpp>

namespace sp {

namespace detail {

/// Rows and keys of a tile in each pass of cuda_flash; multiples of 16.
struct flash_shape {
  int forward_rows = 128; ///< queries that a block of the forward pass has
  int backward_rows = 64; ///< queries of a tile in the backward passes
  int keys = 64;          ///< keys of a tile; where its results depend on where a key stands, sp::attention_backend's key_tile
  int slabs = 2;          ///< of 16 rows that a warp of the forward pass has, up to dim 128
};

/// forward: queries meet keys. queries: the same in tiles of the backward pass, for dq. keys: keys meet queries, for dk and dv.
enum class flash_pass { forward, queries, keys };
inline constexpr int flash_passes = 3;

/// Where in the table the lists of a pass are, counted in integers.
struct flash_head {
  int items = 0;    ///< how many
  int items_at = 0; ///< flash_item
  int ranges_at = 0, slices_at = 0;
  int rows_at = 0, row_segments_at = 0; ///< tiles of rows
  int columns_at = 0, column_segments_at = 0;
};

/// A pass as a kernel reads it from the table.
struct flash_lists {
  int const* words;
  int pass;

  SP_BOTH flash_head const& head() const { return reinterpret_cast<flash_head const*>(words)[pass]; }
  SP_BOTH flash_item const& item(int i) const { return reinterpret_cast<flash_item const*>(words + head().items_at)[i]; }
  SP_BOTH flash_range const& range(int i) const { return reinterpret_cast<flash_range const*>(words + head().ranges_at)[i]; }
  SP_BOTH flash_slice const* slices(int i) const { return reinterpret_cast<flash_slice const*>(words + head().slices_at) + i; }
  SP_BOTH flash_tile const& row_tile(int i) const { return reinterpret_cast<flash_tile const*>(words + head().rows_at)[i]; }
  SP_BOTH flash_tile const& column_tile(int i) const { return reinterpret_cast<flash_tile const*>(words + head().columns_at)[i]; }
  SP_BOTH flash_segment const* row_segments(flash_tile const& t) const {
    return reinterpret_cast<flash_segment const*>(words + head().row_segments_at) + t.first_segment;
  }
  SP_BOTH flash_segment const* column_segments(flash_tile const& t) const {
    return reinterpret_cast<flash_segment const*>(words + head().column_segments_at) + t.first_segment;
  }
};

/// The lists of a problem as the host has them.
struct flash_geometry {
  flash_side forward_rows, backward_rows, keys;
  std::array<flash_work, std::size_t(flash_passes)> work;

  flash_geometry(problem const& p, flash_shape const& shape) {
    auto const documents = flash_documents(p.mask);
    forward_rows = flash_packing(p.q, documents, false, shape.forward_rows).take();
    backward_rows = flash_packing(p.q, documents, false, shape.backward_rows).take();
    keys = flash_packing(p.k, documents, true, shape.keys).take();
    work = {flash_work_list(forward_rows, keys, documents, false).take(),
            flash_work_list(backward_rows, keys, documents, false).take(),
            flash_work_list(keys, backward_rows, documents, true).take()};
  }
  [[nodiscard]] int items(int pass) const { return int(work[std::size_t(pass)].items.size()); }

  /// The table.
  [[nodiscard]] std::vector<int> words() const {
    std::vector<int> out(std::size_t(flash_passes) * sizeof(flash_head) / sizeof(int));
    auto place = [&]<class T>(std::vector<T> const& list) {
      std::size_t const at = out.size();
      if (at + list.size() * sizeof(T) / sizeof(int) > std::size_t(std::numeric_limits<int>::max()))
        fail({errc::size_overflow, "the tables of a batch for sp::cuda_flash pass 2^31 integers", "Use fewer and longer runs"});
      out.resize(at + list.size() * sizeof(T) / sizeof(int));
      if (!list.empty()) std::memcpy(out.data() + at, list.data(), list.size() * sizeof(T));
      return int(at);
    };
    struct placed_side {
      int tiles, segments;
    };
    auto place_side = [&](flash_side const& s) { return placed_side{place(s.tiles), place(s.segments)}; };
    placed_side const of_forward = place_side(forward_rows), of_backward = place_side(backward_rows), of_keys = place_side(keys);
    for (int pass = 0; pass < flash_passes; ++pass) {
      flash_work const& w = work[std::size_t(pass)];
      bool const turned = pass == int(flash_pass::keys);
      placed_side const q = pass == int(flash_pass::forward) ? of_forward : of_backward;
      placed_side const rows = turned ? of_keys : q, columns = turned ? q : of_keys;
      flash_head const head{int(w.items.size()), place(w.items), place(w.ranges), place(w.slices),
                            rows.tiles,          rows.segments,  columns.tiles,   columns.segments};
      std::memcpy(out.data() + std::size_t(pass) * sizeof(head) / sizeof(int), &head, sizeof head);
    }
    return out;
  }
};

} // namespace detail

/// What cuda_flash keeps of a problem. How many blocks a call starts is as much as there was room for when it was prepared, so that a
/// captured graph stays right when another batch is put in its place.
template <class M>
class flash_plan {
public:
  template <class Queue>
  void assign(context<Queue> const& c, problem const& p, detail::flash_shape const& shape) {
    detail::flash_geometry const g(p, shape);
    bool const first = !words_.made();
    std::array<index_t, std::size_t(detail::flash_passes)> room = room_;
    constexpr std::size_t least_of_item =
        sizeof(detail::flash_item) + sizeof(detail::flash_range) + sizeof(detail::flash_tile) + sizeof(detail::flash_segment);
    // as many as a table of so many entries can have
    table_room const of_items{c.room.times, c.room.least * index_t(sizeof(int)) / index_t(least_of_item)};
    for (int pass = 0; pass < detail::flash_passes; ++pass) {
      index_t& n = room[std::size_t(pass)];
      if (first) n = of_items.capacity(g.items(pass));
      if (g.items(pass) > n)
        fail({errc::workspace_too_small,
              "this batch has " + std::to_string(g.items(pass)) + " tiles of rows, there is room for " + std::to_string(n),
              "Prepare it anew, or leave more room when preparing the first batch: context.room"});
    }
    words_.assign(c, g.words());
    room_ = room;
  }

  [[nodiscard]] index_t items(detail::flash_pass pass) const { return room_[std::size_t(pass)]; } ///< at most
  [[nodiscard]] detail::flash_lists lists(detail::flash_pass pass) const { return {words_.values().data, int(pass)}; }

  /// Numbers of the kernel that its work reads: the slopes of sp::alibi.
  table<float, M> slopes;

private:
  table<int, M> words_;
  std::array<index_t, std::size_t(detail::flash_passes)> room_{};
};

} // namespace sp
