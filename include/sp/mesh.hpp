// Entry point: meshes, the groups they make or adopt, and the degrees a model's heads allow.
// Arithmetic and handles only; it needs no communicator of its own.
#pragma once

#include <sp/mesh/derive.hpp>
#include <sp/mesh/group.hpp>
#include <sp/mesh/mesh.hpp>
