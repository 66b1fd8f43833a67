/* The rotate ring over channels of CAP slots: keys hop with two buffers; unless FORWARD, their gradients follow with three.
   No deadlock; each rank meets each block once; no buffer is written while it is read or sent; all shares of a gradient come home. */

#ifndef P
#define P 3   /* ranks, two or more */
#endif
#ifndef CAP
#define CAP 0 /* slots of a channel; 0: a send and its receive happen together */
#endif
#ifndef BUG
#define BUG 0 /* planted: 1 sends before it receives, 2 wrong direction, 3 one key buffer, 4 the last hop is forgotten */
#endif

#define NONE 255
#define OWN 2 /* place of a rank's own keys; 0 and 1 are its buffers */
#define ALL ((1 << P) - 1)
#define BEFORE(r) ((r + P - 1) % P)
#if BUG == 2
#define NEXT(r) BEFORE(r)
#else
#define NEXT(r) ((r + 1) % P)
#endif

chan keys[P] = [CAP] of { byte };        /* to rank i: whose keys */
chan sums[P] = [CAP] of { byte, byte };  /* to rank i: whose gradient, and the ranks that have added their share */
chan no_send = [0] of { byte };          /* where a hop has nothing (more) to do */
chan no_receive = [0] of { byte };
chan no_sum = [0] of { byte, byte };
chan no_more = [0] of { byte, byte };

/* One rank: rotate_backward and its transport. Once a hop is posted, its send and its receive happen in any order, at any time
   before the wait, whatever the kernel does meanwhile. */
proctype rank(byte r) {
  byte s, next, x, y, owner;
  byte held = OWN, computed = 0, received = 1, sent = 2; /* buffers */
  byte key[3];          /* owner of what lies in a key buffer */
  byte sum[3], whose[3]; /* shares in a gradient buffer, and whose gradient it is */
  byte home;            /* shares in the gradient of the own keys */
  byte met;             /* owners whose block is computed */
  byte key_from, key_to, sum_from, sum_to;
  bool reading;         /* the kernel reads key[held], and writes sum[computed] */
  chan key_out = no_send;                              /* hops under way */
  chan key_in = no_receive;
  chan sum_out = no_sum;
  chan sum_in = no_more;

  d_step { key[0] = NONE; key[1] = NONE; key[OWN] = r }
  do
  /* wait for the keys, post the next hop, start the kernel */
  :: d_step { !reading && s < P && key_out == no_send && key_in == no_receive ->
       if
       :: s > 0 -> held = next
       :: else
       fi;
#if BUG == 3
       next = 0;
#else
       next = s % 2;
#endif
       if
       :: s + 1 < P ->
          key_from = held; key_to = next; key_out = keys[NEXT(r)];
#if BUG == 1
#else
          key_in = keys[r];
#endif
       :: else
       fi;
       owner = (r + P - s) % P;
       assert(key[held] == owner);
       assert(s == 0 || ((sum_out == no_sum || sum_from != computed) && (sum_in == no_more || sum_to != computed)));
       reading = true }
  /* the kernel ends: what it read is still there; wait for the gradients, add the own share, post the hop */
  :: d_step { reading && sum_out == no_sum && sum_in == no_more ->
       reading = false;
       assert(key[held] == owner && !(met & (1 << owner)));
       met = met | (1 << owner);
#ifndef FORWARD
       if
       :: s == 0 -> home = 1 << r
       :: else ->
          sum[computed] = 1 << r; whose[computed] = owner;
          if
          :: s > 1 ->
             assert(whose[received] == owner && !(sum[received] & sum[computed]));
             sum[computed] = sum[computed] | sum[received]
          :: else
          fi;
          y = sent; sent = computed; computed = received; received = y; y = 0;
#if BUG == 4
          if
          :: s + 1 < P -> sum_from = sent; sum_to = received; sum_out = sums[NEXT(r)]; sum_in = sums[r]
          :: else
          fi
#else
          sum_from = sent; sum_to = received; sum_out = sums[NEXT(r)]; sum_in = sums[r]
#endif
       fi;
#endif
       s++ }
  /* the transport of keys */
  :: atomic { key_out ! key[key_from] -> key_out = no_send;
#if BUG == 1
       key_in = keys[r]
#endif
     }
  :: atomic { key_in ? x ->
       assert(!reading || key_to != held);
       assert(key_out == no_send || key_to != key_from);
       key[key_to] = x; x = 0; key_in = no_receive }
  /* the transport of gradients */
  :: atomic { sum_out ! whose[sum_from], sum[sum_from] -> sum_out = no_sum }
  :: atomic { sum_in ? x, y ->
       assert(sum_out == no_sum || sum_to != sum_from);
       whose[sum_to] = x; sum[sum_to] = y; x = 0; y = 0; sum_in = no_more }
  /* the end: the last hop has brought the own gradient home */
  :: d_step { s == P && !reading && key_out == no_send && key_in == no_receive && sum_out == no_sum && sum_in == no_more ->
#ifndef FORWARD
       assert(whose[received] == r && !(sum[received] & home));
       home = home | sum[received];
       assert(home == ALL);
#endif
       assert(met == ALL) } -> break
  od
}

init {
  byte i;
  atomic {
    for (i : 0 .. P - 1) { run rank(i) }
  }
}
