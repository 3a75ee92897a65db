/* A cluster whose store was lost: of two clusters under one name the lower yields.

   The view is in a store, and its revision there is the epoch. A store that is wiped counts from 1 again, and who finds no view in it
   begins a cluster; those who live by the view that was lost go on. A lineage is what has come of one beginning. A process holds a
   view, and its word is (epoch, lineage): it says that to the others, who hear it at once, later or never, as long as it holds.

     Y1  Who has heard a word of another lineage that is higher than its own yields: it owns nothing, as long as it remembers that.
         Words are compared by the epoch, then by the lineage, a number.
     Y2  A view is read from the store if its word is higher than what is held.
     Y3  Nobody writes a view after one which is not that of its own lineage, or while a higher epoch is heard of than the store has.

   One partition. Within a lineage fence.pml has who owns; here whoever a process's view names does, for as long as it holds that view.
   So what is left to show is between lineages.

   Left out: an old copy of the store of the same lineage, from which two lines of views may come that have one number. Who has heard
   of a higher epoch of its own lineage than the store turns out to have yields as well; two of one epoch cannot be told apart.

   Must hold (assertions):
     - when each process that holds a view has heard the present word of each other, owners are of one lineage: never do two clusters go on
     - and then not all yield, unless one has died that is remembered
     - what a process holds only grows

   Mutations, each of which must be found out:
     NO_YIELD       Y1 is left out: two clusters go on
     EPOCHS_ONLY    words are compared by the epoch alone: two of one epoch go on
     BOTH_YIELD     of two that have one epoch both yield
     ANY_VIEW       a view is read whatever its word is
*/

#ifndef NODES
#define NODES 3
#endif
#ifndef EPOCHS
#define EPOCHS 3
#endif
#ifndef WIPES
#define WIPES 1
#endif
#ifndef DEATHS
#define DEATHS 1
#endif

#define LINEAGES (WIPES + 1)
#define NOBODY 255
#define EPOCH(word) ((word) / 8)
#define LINEAGE(word) ((word) % 8)
#define WORD(epoch, lineage) ((epoch) * 8 + (lineage))

#if defined(EPOCHS_ONLY)
#define HIGHER(one, other) (EPOCH(one) > EPOCH(other))
#elif defined(BOTH_YIELD)
#define HIGHER(one, other) (EPOCH(one) >= EPOCH(other))
#else
#define HIGHER(one, other) ((one) > (other))
#endif

#ifdef NO_YIELD
#define YIELDS_TO(node, other) false
#else
#define YIELDS_TO(node, other) \
    (heard[(node) * NODES + (other)] != 0 && LINEAGE(heard[(node) * NODES + (other)]) != LINEAGE(word[node]) \
     && HIGHER(heard[(node) * NODES + (other)], word[node]))
#endif

#ifdef ANY_VIEW
#define NEWS(view, held) true
#else
#define NEWS(view, held) ((view) > (held))
#endif

/* The store. 0: nothing is there. */
byte there;
byte there_owner = NOBODY;
byte used;          /* lineages, by bits; which number a new one has nobody knows */
byte wipes = WIPES;
byte deaths = DEATHS;

/* Processes. 0: it holds no view. */
byte word[NODES];
byte owner[NODES];            /* by the view that it holds */
byte heard[NODES * NODES];    /* the last word of each other */

/* Whether node i yields, and the highest epoch that it has heard of. */
inline look(i) {
    yields = false;
    highest = 0;
    k = 0;
    do
    :: k < NODES ->
       if
       :: k != i ->
          yields = (yields || YIELDS_TO(i, k));
          highest = (EPOCH(heard[i * NODES + k]) > highest -> EPOCH(heard[i * NODES + k]) : highest)
       :: else
       fi;
       k++
    :: else -> break
    od;
    k = 0
}

inline check() {
    d_step {
        calm = true;
        ghost = false;
        live = 0;
        yielding = 0;
        lineage = 0;
        i = 0;
        do
        :: i < NODES * NODES ->
           if
           :: i / NODES != i % NODES && heard[i] != word[i % NODES] ->
              if
              :: word[i % NODES] == 0 -> ghost = true
              :: word[i % NODES] != 0 && word[i / NODES] != 0 -> calm = false
              :: else
              fi
           :: else
           fi;
           i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < NODES ->
           if
           :: calm && word[i] != 0 ->
              live++;
              look(i);
              if
              :: yields -> yielding++
              :: !yields && owner[i] == i ->
                 assert(lineage == 0 || lineage == LINEAGE(word[i]));
                 lineage = LINEAGE(word[i])
              :: else
              fi
           :: else
           fi;
           i++
        :: else -> break
        od;
        assert(!calm || ghost || live == 0 || yielding < live);
        i = 0; j = 0; live = 0; yielding = 0; lineage = 0; calm = false; ghost = false; yields = false; highest = 0
    }
}

active proctype World() {
    byte i, j, k, l, live, yielding, lineage, highest, before;
    bool calm, ghost, yields;

    do
    /* Who finds no view, and has heard of nobody, begins a cluster. */
    :: atomic {
        select(i : 0 .. NODES - 1);
        select(l : 1 .. LINEAGES);
        look(i);
        if
        :: there == 0 && word[i] == 0 && highest == 0 && !(used & (1 << l)) ->
           used = used | (1 << l);
           there = WORD(1, l);
           there_owner = i;
           word[i] = there;
           owner[i] = i
        :: else
        fi;
        i = 0; l = 0; highest = 0; yields = false;
        check()
       }
    /* The view is read. */
    :: atomic {
        select(i : 0 .. NODES - 1);
        look(i);
        before = word[i];
        if
        :: there != 0 && EPOCH(there) >= highest && NEWS(there, word[i]) ->
           word[i] = there;
           owner[i] = there_owner
        :: else
        fi;
        assert(word[i] >= before);
        i = 0; before = 0; highest = 0; yields = false;
        check()
       }
    /* The next one is written, by who holds it: others own. */
    :: atomic {
        select(i : 0 .. NODES - 1);
        select(j : 0 .. NODES - 1);
        look(i);
        if
        :: there != 0 && word[i] == there && EPOCH(there) < EPOCHS && highest <= EPOCH(there) && !yields ->
           there = WORD(EPOCH(there) + 1, LINEAGE(there));
           there_owner = j;
           word[i] = there;
           owner[i] = j
        :: else
        fi;
        i = 0; j = 0; highest = 0; yields = false;
        check()
       }
    /* One hears another. */
    :: atomic {
        select(i : 0 .. NODES - 1);
        select(j : 0 .. NODES - 1);
        if
        :: i != j && word[j] != 0 -> heard[i * NODES + j] = word[j]
        :: else
        fi;
        i = 0; j = 0;
        check()
       }
    /* One dies, and is started again. */
    :: atomic {
        deaths > 0 ->
        select(i : 0 .. NODES - 1);
        deaths--;
        d_step {
            word[i] = 0;
            owner[i] = NOBODY;
            j = 0;
            do
            :: j < NODES -> heard[i * NODES + j] = 0; j++
            :: else -> break
            od;
            j = 0
        }
        i = 0;
        check()
       }
    /* One that has died is forgotten. */
    :: atomic {
        select(i : 0 .. NODES - 1);
        select(j : 0 .. NODES - 1);
        if
        :: word[j] == 0 -> heard[i * NODES + j] = 0
        :: else
        fi;
        i = 0; j = 0;
        check()
       }
    /* The store is lost. */
    :: atomic {
        wipes > 0 ->
        wipes--;
        there = 0;
        there_owner = NOBODY;
        check()
       }
    od
}
