/* Everybody's messages to everybody over channels of CAP slots: ROUNDS exchanges one behind the other, all messages of one together, or,
   with PAIRWISE, P - 1 rounds in each of which a rank sends to one peer and receives from another.
   No deadlock; every message is received once, by the rank it is for, in the exchange it was sent in. */

#ifndef P
#define P 3      /* ranks, up to 5 */
#endif
#ifndef CAP
#define CAP 0    /* slots of a channel; 0: a send and its receive happen together */
#endif
#ifdef PAIRWISE
#define ROUNDS (P - 1)
#define TIMES 1  /* messages between two ranks */
#define BEFORE 0 /* messages that came from a peer before this exchange */
#else
#ifndef ROUNDS
#define ROUNDS 2 /* exchanges */
#endif
#define TIMES ROUNDS
#define BEFORE n
#endif
#ifndef BUG
#define BUG 0    /* planted: 1 all sends before all receives, 2 rank 0 leaves out a message */
#endif

#define EACH_PEER(f) f(0) f(1) MORE2(f) MORE3(f) MORE4(f)
#if P > 2
#define MORE2(f) f(2)
#else
#define MORE2(f)
#endif
#if P > 3
#define MORE3(f) f(3)
#else
#define MORE3(f)
#endif
#if P > 4
#define MORE4(f) f(4)
#else
#define MORE4(f)
#endif

chan wire[P * P] = [CAP] of { byte }; /* from x to y at x P + y: number of the exchange */
chan no_send = [0] of { byte };       /* where nothing (more) is to do */
chan no_receive = [0] of { byte };

#define SEND(q) :: atomic { out[q] ! n -> out[q] = no_send; left-- }
#define TAKE(q) :: atomic { in[q] ? x -> assert(x == n && arrived[q] == BEFORE); arrived[q]++; x = 0; in[q] = no_receive; left-- }
#ifdef PAIRWISE
#define OPEN(q) if :: q == (r + n + 1) % P -> out[q] = wire[r * P + q]; left++ :: else fi; if :: q == (r + P - 1 - n) % P -> in[q] = wire[q * P + r]; left++ :: else fi;
#elif BUG == 1
#define OPEN(q) if :: q != r -> out[q] = wire[r * P + q]; left++ :: else -> out[q] = no_send fi;
#define THEN(q) if :: q != r -> in[q] = wire[q * P + r]; left++ :: else fi;
#else
#define OPEN(q) if :: q != r -> out[q] = wire[r * P + q]; in[q] = wire[q * P + r]; left = left + 2 :: else -> out[q] = no_send; in[q] = no_receive fi;
#define THEN(q)
#endif
#define CLEAR(q) in[q] = no_receive; out[q] = no_send;
#define CHECK(q) assert(q == r || arrived[q] == TIMES);

/* One rank. The messages of an exchange are under way together: any that can move may be the next. */
proctype rank(byte r) {
  byte n, x, left;  /* exchanges done; messages of this one that have not moved */
  byte arrived[P];  /* messages received, by sender */
  chan out[P];
  chan in[P];
  d_step { EACH_PEER(CLEAR) }
  do
  :: n < ROUNDS ->
     d_step { left = 0; EACH_PEER(OPEN)
#if BUG == 2
       if :: r == 0 && n == 0 -> out[1] = no_send; left-- :: else fi;
#endif
     }
     do
     EACH_PEER(SEND)
     EACH_PEER(TAKE)
     :: left == 0 -> break
     od;
#if BUG == 1
     skip; /* a jump may not end inside a d_step */
     d_step { left = 0; EACH_PEER(THEN) }
     do
     EACH_PEER(TAKE)
     :: left == 0 -> break
     od;
#endif
     n++
  :: else -> break
  od;
  skip;
  d_step { EACH_PEER(CHECK) }
}

init {
  byte i;
  atomic {
    for (i : 0 .. P - 1) { run rank(i) }
  }
}
