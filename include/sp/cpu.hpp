// Entry point: sp::cpu, the tiled CPU attention backend, with its features.
// The embedded default: nothing to install but a compiler.
#pragma once

#include <sp/backend/cpu/cpu.hpp>
