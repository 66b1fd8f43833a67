// What a consumer writes: a view of memory it owns.
// Ends with 0 when the library works where it was installed.
#include <sp/core/view.hpp>

#include <vector>

int main() {
  std::vector<float> storage(12, 1.0f);
  sp::view<float, 3> q(storage.data(), {3, 2, 2}); // (tokens, heads, dim)
  return q.elements() == 12 && q.dense() ? 0 : 1;
}
