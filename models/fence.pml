/* Who owns a partition of a cluster: no two nodes at once, whatever becomes of clocks, processes, the network and late writes.

   One partition. The view (a key that is written by compare-and-set; its revision is the epoch) names members and the owner, which
   may be any of them. A node acts at the epoch of the view that it has read. Three rules, of CLUSTER's fence:

     1  The owner of its epoch's view owns while a quorum of that view, itself among them, has confirmed, each at that epoch, a
        number that it sent less than FENCE ago.
     3  What it has gained over the view before it owns once that is settled: every member of the view before has been at the new
        epoch, or a quorum of them has, and TIMEOUT has passed since. A successor under its name counts for a member; it never
        confirms for it. Nobody writes the view after one that is not settled.

   Rule 2, who may be written out, is not needed for this: here anybody is, at any time (silence.pml has it).

   What makes it small: each thing happens as soon as it may, or never, since what is later is only less. A number that is heard
   late is older, and owns less long; so a confirmation is at once, with age 0, and gets older, whatever the owner's epoch is by
   then. Who hears late that a node is at an epoch settles late; so all know what one may know. A write that was issued when its
   view was settled may be applied at any time: so any write may, at any time after that. A node reads any view between its own and
   the newest, so old copies of the store are in it. A process that pauses, or whose links are cut, does nothing for a while.

   Time passes in steps. Clocks of owners are the slowest (SLOW a step), of those who wait for them the fastest (FAST).

   Left out: two processes under one name at once, which nobody can tell from one that is slow (a node is refused under a name that is
   heard); how a call that has begun ends; a store that loses what it has confirmed.

   Must hold: no two owners (assertion).

   Mutations, each of which must be found out:
     NO_FENCE             an owner needs no confirmations
     ALONE                its own is enough
     ANY_EPOCH            confirmations of other epochs count
     NO_MARGIN            FENCE is TIMEOUT
     DRIFT                clocks' rates differ by more than 20 %
     SERVE_AT_ONCE        what is gained is owned before the view is settled
     NO_WAIT              a quorum at the new epoch is enough
     UNSETTLED_WRITES     the next view may be written before this one is settled
     GAIN_BY_MEMORY       gained is what the node did not own in the view that it came from, instead of the view before
     SUCCESSOR_CONFIRMS   a new process confirms for the one before under its name
*/

#ifndef NODES
#define NODES 3
#endif
#ifndef EPOCHS
#define EPOCHS 3
#endif
#ifndef RESTARTS
#define RESTARTS 0
#endif

#define TIMEOUT 10
#ifdef NO_MARGIN
#define FENCE TIMEOUT
#else
#define FENCE 8
#endif
#define FAST 5
#ifdef DRIFT
#define SLOW 3
#else
#define SLOW 4
#endif

#define EVERYBODY ((1 << NODES) - 1)
#define NOWHERE 255

#define HAS(mask, node) (((mask) >> (node)) & 1)
#define SIZE(mask) (HAS(mask, 0) + HAS(mask, 1) + HAS(mask, 2) + HAS(mask, 3) + HAS(mask, 4))
#ifdef LOWEST /* of two, the lower alone; of more, a majority */
#define QUORUM(of, some) \
    (SIZE(of) == 2 -> ((of) & -(of) & (some)) != 0 : 2 * SIZE((of) & (some)) > SIZE(of))
#else
#define QUORUM(of, some) (2 * SIZE((of) & (some)) > SIZE(of))
#endif

/* By epoch. lives: of each member, which process under its name is meant. */
byte members[EPOCHS];
byte lives[EPOCHS];
byte owner[EPOCHS];
bit settled[EPOCHS];
byte reached[EPOCHS]; /* the names that have been there, or beyond */
byte waited[EPOCHS];  /* since a quorum of the view before has reached it */
byte age[EPOCHS * NODES]; /* of the owner's number that each node has confirmed; FENCE: too old */
byte newest;

byte at[NODES];   /* the epoch at which a node acts */
byte from[NODES]; /* the one before that; for a mutation only */
byte life;        /* which process each node is now */
byte restarts = RESTARTS;

#define SAME(node, epoch) (HAS(life, node) == HAS(lives[epoch], node))

#ifdef NO_FENCE
#define CONFIRMED(epoch) true
#elif defined(ALONE)
#define CONFIRMED(epoch) (age[(epoch) * NODES + owner[epoch]] < FENCE)
#else
#define FRESH(epoch, node) (((node) < NODES && age[(epoch) * NODES + ((node) % NODES)] < FENCE) << (node))
#define CONFIRMED(epoch) \
    (age[(epoch) * NODES + owner[epoch]] < FENCE && QUORUM(members[epoch], \
        FRESH(epoch, 0) | FRESH(epoch, 1) | FRESH(epoch, 2) | FRESH(epoch, 3) | FRESH(epoch, 4)))
#endif

#ifdef GAIN_BY_MEMORY
#define KEPT(epoch) (from[owner[epoch]] != NOWHERE && owner[from[owner[epoch]]] == owner[epoch])
#else
#define KEPT(epoch) \
    (owner[(epoch) - 1] == owner[epoch] && HAS(lives[(epoch) - 1], owner[epoch]) == HAS(lives[epoch], owner[epoch]))
#endif
#ifdef SERVE_AT_ONCE
#define MAY_SERVE(epoch) true
#else
#define MAY_SERVE(epoch) (settled[epoch] || (epoch) == 0 || KEPT(epoch))
#endif

#define OWNS(epoch) \
    ((epoch) <= newest && at[owner[epoch]] == (epoch) && SAME(owner[epoch], epoch) && CONFIRMED(epoch) && MAY_SERVE(epoch))

#ifdef SUCCESSOR_CONFIRMS
#define MAY_CONFIRM(node, epoch) true
#else
#define MAY_CONFIRM(node, epoch) SAME(node, epoch)
#endif
#ifdef UNSETTLED_WRITES
#define MAY_WRITE true
#else
#define MAY_WRITE settled[newest]
#endif

/* Each epoch has one owner, and a node is at one epoch: two owners are of two epochs. */
inline check() {
    d_step {
        count = 0;
        e = 0;
        do
        :: e < EPOCHS -> if :: OWNS(e) -> count++ :: else fi; e++
        :: else -> break
        od;
        assert(count <= 1);
        count = 0; e = 0
    }
}

active proctype World() {
    byte count, e, i, mask;

    d_step {
        members[0] = EVERYBODY;
        settled[0] = 1;
        reached[0] = EVERYBODY;
        i = 0;
        do
        :: i < EPOCHS * NODES -> age[i] = FENCE; i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < NODES -> from[i] = NOWHERE; i++
        :: else -> break
        od;
        i = 0
    }
    do
    /* A node confirms its owner, at its epoch. */
    :: atomic {
        select(i : 0 .. NODES - 1);
#ifdef ANY_EPOCH
        select(e : 0 .. EPOCHS - 1);
#else
        e = (at[i] == NOWHERE -> EPOCHS - 1 : at[i]);
#endif
        if
        :: e <= newest && at[i] != NOWHERE && HAS(members[e], i) && MAY_CONFIRM(i, e) && SAME(owner[e], e) ->
           age[e * NODES + i] = 0
        :: else
        fi;
        e = 0; i = 0;
        check()
       }
    /* A node reads the view: the newest, or an old copy. */
    :: atomic {
        select(i : 0 .. NODES - 1);
        select(e : 0 .. EPOCHS - 1);
        if
        :: e <= newest && (at[i] == NOWHERE || e > at[i]) ->
           d_step {
#ifdef GAIN_BY_MEMORY
               from[i] = at[i];
#endif
               at[i] = e;
               do
               :: e > 0 ->
                  reached[e] = reached[e] | (1 << i);
                  if
                  :: (members[e - 1] & reached[e]) == members[e - 1] -> settled[e] = 1; waited[e] = 0
#ifdef NO_WAIT
                  :: QUORUM(members[e - 1], reached[e]) -> settled[e] = 1
#endif
                  :: else
                  fi;
                  e--
               :: else -> break
               od
           }
        :: else
        fi;
        e = 0; i = 0;
        check()
       }
    /* A view is written: whoever is in it, whoever owns. */
    :: atomic {
        newest < EPOCHS - 1 && MAY_WRITE ->
        select(mask : 1 .. EVERYBODY);
        select(i : 0 .. NODES - 1);
        if
        :: HAS(mask, i) ->
           e = newest + 1;
           members[e] = mask;
           owner[e] = i;
           if
           :: lives[e] = life & mask
           :: lives[e] = life & lives[newest] & mask /* the write is of some time ago */
           fi;
           newest = e
        :: else
        fi;
        e = 0; i = 0; mask = 0;
        check()
       }
    /* A node dies, and is started again. */
    :: atomic {
        restarts > 0 ->
        select(i : 0 .. NODES - 1);
        if
        :: !HAS(life, i) ->
           d_step {
               restarts--;
               life = life | (1 << i);
               at[i] = NOWHERE;
               from[i] = NOWHERE
           }
        :: else
        fi;
        i = 0
       }
    /* Time passes. */
    :: atomic {
        d_step {
            i = 0;
            do
            :: i < EPOCHS * NODES ->
               age[i] = (age[i] + SLOW >= FENCE -> FENCE : age[i] + SLOW);
               i++
            :: else -> break
            od;
            e = 1;
            do
            :: e < EPOCHS ->
               if
               :: e <= newest && !settled[e] && QUORUM(members[e - 1], reached[e]) ->
                  waited[e] = waited[e] + FAST;
                  if
                  :: waited[e] >= TIMEOUT -> settled[e] = 1; waited[e] = 0
                  :: else
                  fi
               :: else
               fi;
               e++
            :: else -> break
            od;
            e = 0; i = 0
        }
        check()
       }
    od
}
