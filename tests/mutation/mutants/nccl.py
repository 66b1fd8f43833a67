# Bugs planted in: sp::nccl and the messages of its exchanges. Their tests run over fakes of NCCL and of the CUDA runtime.
from mutants.mutant import Mutant

CUT = ("collective.messages", "messages: pieces that follow*")
PLACE = ("collective.messages", "messages: equal parts*")
GATHER = ("collective.messages", "messages: everybody's part*")
ROUTES = ("cuda.nccl", "nccl: rows move along routes*")
PARCELS = ("cuda.nccl", "nccl: parcels of any pieces*")
EQUAL = ("cuda.nccl", "nccl: equal parts*")
GROUPS = ("cuda.nccl", "nccl: groups of a mesh*")
CALLS = ("cuda.nccl_failures", "nccl failures: a call of NCCL*")
LATE = ("cuda.nccl_failures", "nccl failures: work before*")
ABORT = ("cuda.nccl_failures", "nccl failures: where the options*")
REPLAY = ("cuda.nccl_graphs", "nccl graphs: exchanges*")
REFUSED = ("cuda.nccl_graphs", "nccl graphs: what cannot*")
LOOK = ("cuda.nccl_graphs", "nccl graphs: who looks*")
CONNECT = ("cuda.nccl_failures", "nccl failures: calls that wait*")
MADE = ("cuda.nccl_failures", "nccl failures: a communicator that does not block is asked until it is made*")
SUMS = ("cuda.nccl_sums", "nccl sums: one call*")
NO_SUMS = ("cuda.nccl_sums", "nccl sums: none are made*")
SUMS_TOLD = ("cuda.nccl_sums", "nccl sums: an abort tells*")
SPLIT = ("cuda.nccl_sums", "nccl sums: a communicator that does not block*")
SUMS_END = ("cuda.nccl_sums", "nccl sums: a call of NCCL*")

MUTANTS = [
    Mutant(
        "nccl_gap_is_sent",
        "pieces with a gap between them are sent as one block",
        "collective/family/messages.hpp",
        " || (end && begin != end)",
        "",
        *CUT,
    ),
    Mutant(
        "nccl_gather_over_others",
        "blocks are gathered where they lie although they are not in the order of ranks",
        "collective/family/messages.hpp",
        "      if (begin && first != begin) return nullptr;\n",
        "",
        *PLACE,
    ),
    Mutant(
        "nccl_unequal_gather",
        "parts of any size are gathered in one call",
        "collective/family/messages.hpp",
        "if (p.peer != rank && total_bytes(p.pieces) != bytes) return false;",
        "",
        *GATHER,
    ),
    Mutant(
        "nccl_room_of_ranges",
        "rows in several ranges are taken for a block, so that the scratch of a call is too small",
        "layout/message_room.hpp",
        "whole.data && list.size() == 1",
        "whole.data != nullptr || list.size() == 1",
        *ROUTES,
    ),
    Mutant(
        "nccl_sends_at_once",
        "an exchange does not start behind the work that writes what it sends",
        "collective/nccl/group.hpp",
        "    lane.wait(family_->queue().record());\n",
        "",
        *EQUAL,
    ),
    Mutant(
        "nccl_wait_orders_nothing",
        "work behind wait() reads what has not come",
        "collective/nccl/group.hpp",
        "    family_->queue().wait(e.done); // also of a family that has failed: memory that the caller gives back is still in use\n",
        "",
        *EQUAL,
    ),
    Mutant(
        "nccl_done_before_unpacking",
        "an exchange is done before what has come is unpacked",
        "collective/nccl/group.hpp",
        "    copy(lane, e.messages.unpacks());\n    e.done = lane.record();\n",
        "    e.done = lane.record();\n    copy(lane, e.messages.unpacks());\n",
        *ROUTES,
    ),
    Mutant(
        "nccl_memory_kept_for_ever",
        "memory for packing is never used again",
        "collective/nccl/group.hpp",
        "    give_back(e);\n    e.open = false;\n",
        "    e.borrowed = nullptr;\n    e.open = false;\n",
        *PARCELS,
    ),
    Mutant(
        "nccl_group_ranks",
        "a group sends to ranks of the communicator that have the numbers of its own",
        "collective/nccl/group.hpp",
        "ncclInt8, world(b.peer), comm, stream",
        "ncclInt8, b.peer, comm, stream",
        *GROUPS,
    ),
    Mutant(
        "nccl_turned_group",
        "a group of all ranks in another order gathers as if it were the communicator",
        "collective/nccl/group.hpp",
        "    for (int r = 0; r < size(); ++r) is_world_ = is_world_ && world(r) == r;\n",
        "",
        *EQUAL,
    ),
    Mutant(
        "nccl_goes_on_when_refused",
        "calls are made behind one that was refused, outside of any group",
        "collective/nccl/calls.hpp",
        "if (first_bad_ == ncclSuccess) note(call, f());",
        "note(call, f());",
        *CALLS,
    ),
    Mutant(
        "nccl_deadline_of_queued_work",
        "work that is given before an exchange counts for its deadline",
        "collective/nccl/watch.hpp",
        "      if (state == cudaErrorNotReady) return finding::nothing; // work before it is not done\n",
        "      if (state == cudaErrorNotReady) e.seen = looked_;\n      else\n",
        *LATE,
    ),
    Mutant(
        "nccl_not_ready_left_behind",
        "that an exchange is not done is left in the runtime's last error",
        "collective/nccl/watch.hpp",
        "    if (state == cudaErrorNotReady) static_cast<void>(cudaGetLastError());\n",
        "",
        "cuda.nccl_failures",
        "nccl failures: a peer that does not come*",
    ),
    Mutant(
        "nccl_failure_is_kept_quiet",
        "a failure does not abort the communicator although the options say so",
        "collective/nccl/family.hpp",
        "    if (options_.abort_on_failure) abort_communicator();\n",
        "",
        *ABORT,
    ),
    Mutant(
        "nccl_watches_captures",
        "events of a graph are asked whether they are reached",
        "collective/nccl/group.hpp",
        "bool const watched = !e.messages.empty() && !family_->captured(what.primitive);",
        "bool const watched = !e.messages.empty();",
        *REPLAY,
    ),
    Mutant(
        "nccl_split_in_capture",
        "a split goes to work while a graph is captured",
        "collective/nccl/group.hpp",
        'if (family_->captured("split"))',
        "if (false)",
        *REFUSED,
    ),
    Mutant(
        "nccl_look_ends_captures",
        "who looks at exchanges under way ends the captures of other threads",
        "collective/nccl/family.hpp",
        "    relaxed_capture const relaxed; // of another thread\n",
        "",
        *LOOK,
    ),
    Mutant(
        "nccl_calls_take_for_ever",
        "calls of NCCL that wait for a peer have no deadline",
        "collective/nccl/family.hpp",
        "if (auto f = inside_ ? late_calls() : asynchronous_error()) return f;",
        "if (auto f = inside_ ? std::optional<failure>() : asynchronous_error()) return f;",
        *CONNECT,
    ),
    Mutant(
        "nccl_asked_while_made",
        "a communicator that is still being made is asked for its rank",
        "collective/nccl/family.hpp",
        "if (ncclResult_t const state = settle(comm); state != ncclSuccess)",
        "if (ncclResult_t const state = ncclSuccess; state != ncclSuccess)",
        *MADE,
    ),
    Mutant(
        "nccl_group_sums_of_all",
        "the sum of a group is that of all ranks",
        "collective/nccl/group.hpp",
        "used = e.sum.over && e.messages.summed().bytes > 0 && inside.comm() ? e.sum.over : inside.comm();",
        "used = inside.comm();",
        *SUMS,
    ),
    Mutant(
        "nccl_sums_of_bf16_as_fp16",
        "bf16 is added up as fp16",
        "collective/nccl/native_sums.hpp",
        "return static_cast<ncclDataType_t>(9);",
        "return ncclFloat16;",
        *SUMS,
    ),
    Mutant(
        "nccl_sums_of_bf16_by_old_library",
        "bf16 is given to an NCCL that does not add it up",
        "collective/nccl/group.hpp",
        "if (int const found = family_->version(); found < version)",
        "if (int const found = family_->version(); found < 0 * version)",
        *NO_SUMS,
    ),
    Mutant(
        "nccl_packed_sum_stays",
        "a sum of strided values stays where it was packed",
        "collective/family/messages.hpp",
        "      copy(unpacks_, block_of(room, sum_block_.bytes), {&sum_, 1}, false);\n",
        "",
        *SUMS,
    ),
    Mutant(
        "nccl_splits_in_use",
        "a communicator is split although tokens are open",
        "collective/nccl/group.hpp",
        "if (family_->open_exchanges > 0)",
        "if (false)",
        *NO_SUMS,
    ),
    Mutant(
        "nccl_old_library_splits",
        "a library without ncclCommSplit is asked to split",
        "collective/nccl/group.hpp",
        "if (family_->version() >= nccl_version_number(2, 18, 0)) {",
        "{",
        *NO_SUMS,
    ),
    Mutant(
        "nccl_groups_live_on",
        "an abort leaves the communicators of groups alive",
        "collective/nccl/children.hpp",
        "    bool const more = first < places_.size();\n",
        "    bool const more = false;\n",
        *SUMS_END,
    ),
    Mutant(
        "nccl_aborts_in_turn",
        "a communicator is aborted when the one before has ended, which its own kernels hold up",
        "collective/nccl/children.hpp",
        "    if (more) best_effort([&] { others = std::thread([&] { abort_from(first + 1, places_[first]->comm); }); });\n",
        "",
        *SUMS_TOLD,
    ),
    Mutant(
        "nccl_split_not_asked",
        "a split that goes on by itself is taken for one that has failed",
        "collective/nccl/family.hpp",
        "    if (is_in_progress(result)) result = settle(comm());\n",
        "",
        *SPLIT,
    ),
    Mutant(
        "nccl_split_left_behind",
        "what NCCL makes behind the deadline of a split lives on",
        "collective/nccl/children.hpp",
        "      if (made && !p->adopted) static_cast<void>(ncclCommAbort(made));\n",
        "",
        *SPLIT,
    ),
]
