// Control of tools/compile_fail.py: the refused code compiles, so the harness must complain.
// EXPECT: anything
int one() { return 1; }
#ifdef SP_FAIL
int two() { return 2; }
#endif
