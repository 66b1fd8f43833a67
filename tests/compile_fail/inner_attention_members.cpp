// What runs inside Ulysses and lacks a member is told which, and what to add.
// EXPECT: add `static constexpr char const\* name`
// EXPECT: add `group\(\)`, which returns its communicator
// EXPECT: add `sp::mask const& mask\(\) const`
// EXPECT: add `int checks\(\) const`
// EXPECT: add `sp::heads local_heads_of\(sp::heads\) const`
// EXPECT: add `q_rows\(prepared\)` and `k_rows\(prepared\)`
// EXPECT: add `check_call\(sp::heads, bool\) const`
// EXPECT: add `void prepare_layouts\(prepared&, layout, layout, int part, std::vector<sp::slice>, sp::mask\) const`
// EXPECT: add `identify\(sp::digest&\) const`
// EXPECT: add `each_group\(f\) const`
// EXPECT: add `int sequence_rank\(\) const`
// EXPECT: add `describe\(fingerprint&, prepared, sp::index_t dim, sp::random_key\) const`
#include "../attention/near_misses.hpp"

template <class... Inner>
inline constexpr bool all_accepted = ((sizeof(sp::ulysses_attention<sp::solo, Inner>) > 0) && ...);

using namespace near_miss;
static_assert(all_accepted<complete>);
#ifdef SP_FAIL
static_assert(all_accepted<no_name, no_group, no_mask, no_checks, no_local_heads, no_q_rows, no_check_call, no_prepare_layouts,
                           no_identify, no_each_group, no_sequence_rank, no_describe>);
#endif
