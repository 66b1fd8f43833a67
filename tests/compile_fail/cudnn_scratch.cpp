// cuDNN's workspace depends on the device: its kernel is not asked for scratch without the queue.
// EXPECT: sp::cudnn: its workspace is a matter of the device: give scratch_bytes the queue, as last argument
#include <sp/backend/cudnn/kernel.hpp>

struct engine {
  template <class Queue>
  static sp::index_t workspace_bytes(sp::detail::sdpa_shape const&, Queue const&);
  template <class Queue>
  static void run(sp::detail::sdpa_shape const&, sp::detail::sdpa_arguments const&, void*, Queue const&);
};

void use(engine& e, sp::inline_queue const& queue) {
  sp::basic_cudnn<sp::host_memory, engine> const kernel(e);
#ifdef SP_FAIL
  (void)kernel.scratch_bytes<sp::bf16>({}, {}, 64, 64);
#else
  (void)kernel.scratch_bytes<sp::bf16>({}, {}, 64, 64, queue);
#endif
}
