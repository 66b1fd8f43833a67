// Control of tools/compile_fail.py: refused, but with another sentence, so the harness must complain.
// EXPECT: heads are uneven
#ifdef SP_FAIL
static_assert(sizeof(char) == 2, "a char has one byte");
#endif
