// A member whose type names the communicator where the mesh made a group.
// EXPECT-SOON: no known conversion .*group<.*solo.* to .sp::solo
#include <sp/collective/solo.hpp>
#include <sp/mesh.hpp>
#include <sp/reference.hpp>
#include <sp/ring.hpp>

struct trainer {
#ifdef SP_FAIL
  using ranks = sp::solo;
#else
  using ranks = sp::group<sp::solo>;
#endif
  sp::ring_attention<ranks, sp::reference<>> attention;

  explicit trainer(sp::solo const& all) : attention(sp::mesh{sp::axis::ring{1}}.ring(all), sp::reference{}) {}
};
