// The one source with cuDNN's frontend of programs that run on a device: it takes two minutes to compile, so they share its object.
// Defines sp::make_cudnn_engine().
#define SP_CUDNN_IMPLEMENTATION
#include <sp/cudnn.hpp>
