// Public entry: sp::diagnosis::configure({...}) sets what is logged, dumped and traced; without it the environment does.
// The models that wait for others (threads, mpi) include it already.
#pragma once

#include <sp/diagnosis/flight_recorder.hpp>
