# Bugs planted in: work of queues, and what the host reads of it.
from mutants.mutant import Mutant

RING = ("attention.queues", "queues: row arithmetic*")

MUTANTS = [
    Mutant(
        "rows_joined_of_one_tensor",
        "an addition takes rows of both tensors as one if those of the first follow each other",
        "core/elementwise.hpp",
        "(follows(v) && (follows(others) && ...))",
        "follows(v)",
        "core.elementwise",
        "elementwise: fill*",
    ),
    Mutant(
        "read_without_waiting",
        "the host reads a number of a queue before it is there",
        "core/elementwise.hpp",
        "    q.synchronize();\n",
        "",
        "core.elementwise",
        "elementwise: sums*",
    ),
    Mutant(
        "delta_beside_the_queue",
        "a ring computes delta on the caller's thread, whatever the queue",
        "attention/ring.hpp",
        "detail::row_delta<T>(ctx.queue, ",
        "detail::row_delta<T>(",
        *RING,
    ),
    Mutant(
        "gradients_rounded_beside_the_queue",
        "a ring rounds its gradients on the caller's thread, whatever the queue",
        "attention/ring.hpp",
        "    dq.finish(ctx.queue);\n",
        "    dq.finish();\n",
        *RING,
    ),
    Mutant(
        "loss_read_in_two",
        "the gradient of a loss waits for a queue that is not the host's, to count labels",
        "loss/gather_loss.hpp",
        "if (!detail::runs_on_host<Queue> || options_.checks == 0)",
        "if (options_.checks == 0)",
        "attention.queues",
        "queues: losses*",
    ),
    Mutant(
        "sent_before_it_is_written",
        "a communicator that knows no queue sends what the queue has yet to write",
        "collective/operations.hpp",
        "!Q::finished_on_return && !has_own_queue<C>",
        "!Q::finished_on_return && has_own_queue<C>",
        "layout.route_queue",
        "route: on late*",
    ),
    Mutant(
        "route_sums_not_waited_for",
        "what arrives along a route is added up before it has come",
        "layout/route_exchange.hpp",
        """    flight_.wait();
    memory_.operands.finish(queue_);""",
        """    memory_.operands.finish(queue_);
    flight_.wait();""",
        "layout.route_queue",
        "route: on late*",
    ),
    Mutant(
        "route_sums_beside_the_queue",
        "the host adds up rows of another memory",
        "layout/routed.hpp",
        "        detail::add(q, into, arrived);",
        "        for (index_t i = 0; i < into.elements(); ++i) into.data[i] += X(to_acc(arrived.data[i]));",
        "layout.route_queue",
        "route: on late*",
        faults=True,
    ),
]
