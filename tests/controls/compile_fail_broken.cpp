// Control of tools/compile_fail.py: does not compile at all, so the harness must complain about the control build.
// EXPECT: heads are uneven
static_assert(sizeof(char) == 2, "heads are uneven");
#ifdef SP_FAIL
int two() { return 2; }
#endif
