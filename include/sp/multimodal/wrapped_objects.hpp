// The attention objects that auto_wrap puts into slots: rings, Ulysses and both over the groups of one sequence, with prefix tokens around.
// Groups are split once for all slots of equal degrees; where a communicator cannot be split, one strategy takes all its ranks.
#pragma once

#include <sp/mesh/mesh.hpp>
#include <sp/multimodal/attention_slot.hpp>
#include <sp/multimodal/vit_attention.hpp>
#include <sp/multimodal/wrap_options.hpp>

namespace sp::detail {

/// The groups of one sequence: all ranks, and where they are cut in two, mine of either kind.
template <class Comm>
struct sequence_groups {
  using type = group<Comm>;
  type whole;
  sequence_groups(Comm const& ranks, sequence_degrees d, bool) : whole(ranks) {
    if (d.ulysses > 1 && d.ring > 1)
      fail({errc::unsupported,
            "degrees ulysses " + std::to_string(d.ulysses) + " x ring " + std::to_string(d.ring) +
                " need groups, and this communicator cannot be split",
            "Choose strategy::ulysses or strategy::ring, or give a communicator with split()"});
  }
};
template <splittable Comm>
struct sequence_groups<Comm> {
  using part = decltype(std::declval<Comm const&>().split(0, 0));
  using type = decltype(group(std::declval<part>()));
  type whole, ring, ulysses;
  /// ulysses_first: its axis comes before that of the ring, as in mesh{ulysses, ring}. Collective.
  sequence_groups(Comm const& ranks, sequence_degrees d, bool ulysses_first)
      : sequence_groups(ranks, d,
                        ulysses_first ? mesh(axis::ulysses{d.ulysses}, axis::ring{d.ring})
                                      : mesh(axis::ring{d.ring}, axis::ulysses{d.ulysses})) {}

private:
  sequence_groups(Comm const& ranks, sequence_degrees d, mesh const& m)
      : whole(all(ranks)), ring(d.ulysses == 1 ? whole : m.ring(ranks)), ulysses(d.ring == 1 ? whole : m.ulysses(ranks)) {}
  static type all(Comm const& ranks) {
    if constexpr (std::is_same_v<part, Comm>)
      return type(ranks); // itself: a group of the same ranks would be one more communicator
    else
      return group(ranks.split(0, ranks.rank()));
  }
};

/// The kernel as rings take it, for a kernel whose results can be merged.
template <class K>
concept can_ring = requires {
  typename K::plan;
}
|| some_block_kernel<K>;
template <class K>
auto ring_kernel(K kernel) {
  if constexpr (requires { typename K::plan; })
    return kernel;
  else
    return blockwise{std::move(kernel)};
}

/// Makes objects of one role over one set of groups.
template <class Comm, class Kernel, class Contract>
class role_objects {
  using groups_type = sequence_groups<Comm>;

public:
  role_objects(groups_type const& groups, sequence_degrees d, Kernel const& kernel, role_options const& o, int checks)
      : groups_(groups), degrees_(d), kernel_(kernel), options_(o), checks_(checks) {}

  template <class Slot>
  void fill(Slot& slot) const {
    attention_options a;
    a.mask = slot.seat().mask;
    a.scale = slot.seat().scale;
    a.schedule = options_.schedule;
    a.head_chunks = options_.head_chunks;
    a.checks = checks_;
    if constexpr (!can_ring<Kernel>)
      put(slot, ulysses_attention{groups_.whole, kernel_, std::move(a), of_ulysses()});
    else if constexpr (!splittable<Comm>)
      degrees_.ulysses == 1 ? put(slot, ring_attention{groups_.whole, ring_kernel(kernel_), std::move(a)})
                            : put(slot, ulysses_attention{groups_.whole, kernel_, std::move(a), of_ulysses()});
    else {
      ring_attention ring{groups_.ring, ring_kernel(kernel_), std::move(a)};
      degrees_.ulysses == 1 ? put(slot, std::move(ring))
                            : put(slot, ulysses_attention{groups_.ulysses, std::move(ring), of_ulysses()});
    }
  }

private:
  ulysses_options of_ulysses() const { return {options_.keep, options_.head_chunks}; }

  template <class Slot, class Object>
  void put(Slot& slot, Object object) const {
    seating how{Object::name, degrees_.ulysses, degrees_.ring, true, degrees_.ulysses * degrees_.ring};
    if constexpr (has_prefix<typename Slot::role>)
      if (slot.seat().prefix > 0) {
        using around = vit_attention<typename groups_type::type, Object, Contract>;
        how.object = around::name;
        return slot.use(around(groups_.whole, std::move(object), Contract{}, {slot.seat().prefix}), how);
      }
    slot.use(std::move(object), how);
  }

  groups_type const& groups_;
  sequence_degrees degrees_;
  Kernel const& kernel_;
  role_options const& options_;
  int checks_;
};

} // namespace sp::detail
