// The public headers that refused programs use: precompiled once per compiler, so that each program costs what it is about.
// Programs include what they use themselves; this changes nothing but time.
#pragma once

#include <sp/auto_wrap.hpp>
#include <sp/batch.hpp>
#include <sp/blockwise.hpp>
#include <sp/counting.hpp>
#include <sp/cpu.hpp>
#include <sp/fusion.hpp>
#include <sp/gather_loss.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/linear.hpp>
#include <sp/mesh.hpp>
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/ulysses.hpp>
#include <sp/vision.hpp>
