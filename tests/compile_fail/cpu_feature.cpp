// A kernel takes features of sp only, and each once.
// EXPECT: a kernel feature is given twice; pass each one once
#include <sp/cpu.hpp>

#ifdef SP_FAIL
using backend = sp::cpu<sp::softcap, sp::dropout, sp::softcap>;
#else
using backend = sp::cpu<sp::softcap, sp::dropout>;
#endif

static_assert(sp::attention_backend<backend, float>);
bool use(backend const& b) { return b.prepare({}).documents.empty(); }
