// The headers that snippets of the pages include: compiled once for all of them by default, see docs.cmake.
// Snippets include what they use themselves; this changes nothing but time.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>
#include <thread>

#include <sp/multimodal.hpp>

#include <sp/batch.hpp>
#include <sp/blockwise.hpp>
#include <sp/conv1d.hpp>
#include <sp/counting.hpp>
#include <sp/cpu.hpp>
#include <sp/gather_loss.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/linear.hpp>
#include <sp/linear_slot.hpp>
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>
#include <sp/usp.hpp>
