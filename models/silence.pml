/* Who may be written out of a cluster: nobody whom most of it hears.

   Three nodes. Links go either way by itself; in each step any are cut, and the others work. i has a round trip with j while both ways
   work, and holds it silent once it has had none for TIMEOUT. Each says whom it holds silent; who hears that remembers it, with
   when it was heard. A node that has a round trip with one other may write out whom a quorum, itself among them, holds silent,
   by their words of the last FENCE.

   Must hold: while nodes 0 and 1 have heard each other for longer than FENCE, neither of them is written out, whatever the third
   hears (assertion).

   That words are of late and that the writer is confirmed are two locks on one door while there are three nodes: without the second
   it still holds (UNCONFIRMED), and without both it does not. Both stay: of five, who confirms and whose word it is may be others.

   And (assertion): once a node has heard nobody for TIMEOUT and FENCE, though all hear it, the others may write it out.

   Mutations, each of which must be found out:
     OWN_WORD       the writer's own word is enough
     OLD_WORDS      words count however long ago they were heard, and the writer need not be confirmed
     ONE_WAY        silent is who is not heard: who hears nobody, and serves nothing, stays in
*/

#define NODES 3
#define TIMEOUT 2
#define FENCE 1

#define LINK(i, j) ((links >> ((i) * NODES + (j))) & 1) /* i hears j */
#define TRIP(i, j) (LINK(i, j) && LINK(j, i))
#ifdef ONE_WAY
#define HEARD(i, j) LINK(i, j)
#else
#define HEARD(i, j) TRIP(i, j)
#endif
#define AT(i, j) ((i) * NODES + (j))
#define SILENT(i, j) (quiet[AT(i, j)] >= TIMEOUT)

#ifdef OLD_WORDS
#define FRESH(w, i) true
#else
#define FRESH(w, i) (heard[AT(w, i)] <= FENCE)
#endif
#define SAYS(w, i, v) ((i) == (w) || (FRESH(w, i) && ((words[AT(w, i)] >> (v)) & 1)))

#ifdef OWN_WORD
#define OTHER_SAYS(w, j, v) true
#else
#define OTHER_SAYS(w, j, v) SAYS(w, j, v)
#endif
#if defined(UNCONFIRMED) || defined(OLD_WORDS)
#define CONFIRMED(w, j) true
#else
#define CONFIRMED(w, j) (quiet[AT(w, j)] <= FENCE)
#endif

short links;
byte quiet[NODES * NODES];  /* steps since i and j had a round trip */
byte words[NODES * NODES];  /* whom i holds silent, as w heard it last */
byte heard[NODES * NODES];  /* steps since then */
byte steady;                /* steps since which 0 and 1 have a round trip */
byte deaf;                  /* steps since which 2 hears nobody, and 0 and 1 hear it and each other */

active proctype World() {
    byte i, j, w, v;
    short up;
    do
    /* Time passes: links are what they are now; all say whom they hold silent, and are heard where links are. */
    :: atomic {
        select(up : 0 .. 63); /* of each node the two others, the lower first */
        d_step {
            links = 273 | ((up & 3) << 1) | ((up >> 2 & 1) << 3) | ((up >> 3 & 1) << 5) | ((up >> 4 & 3) << 6);
            i = 0;
            do
            :: i < NODES ->
               j = 0;
               do
               :: j < NODES ->
                  if
                  :: i == j || HEARD(i, j) -> quiet[AT(i, j)] = 0
                  :: else -> quiet[AT(i, j)] = (quiet[AT(i, j)] < TIMEOUT -> quiet[AT(i, j)] + 1 : TIMEOUT)
                  fi;
                  j++
               :: else -> break
               od;
               i++
            :: else -> break
            od;
            w = 0;
            do
            :: w < NODES ->
               i = 0;
               do
               :: i < NODES ->
                  if
                  :: i == w
                  :: i != w && LINK(w, i) ->
                     heard[AT(w, i)] = 0;
                     words[AT(w, i)] = SILENT(i, 0) | (SILENT(i, 1) << 1) | (SILENT(i, 2) << 2)
                  :: else ->
                     heard[AT(w, i)] = (heard[AT(w, i)] <= FENCE -> heard[AT(w, i)] + 1 : FENCE + 1);
#ifndef OLD_WORDS
                     if :: heard[AT(w, i)] > FENCE -> words[AT(w, i)] = 0 :: else fi
#endif
                  fi;
                  i++
               :: else -> break
               od;
               w++
            :: else -> break
            od;
            steady = (!TRIP(0, 1) -> 0 : (steady <= FENCE -> steady + 1 : FENCE + 1));
            deaf = (!(TRIP(0, 1) && LINK(0, 2) && LINK(1, 2) && !LINK(2, 0) && !LINK(2, 1)) -> 0 :
                (deaf <= TIMEOUT + FENCE -> deaf + 1 : deaf));
            assert(deaf <= TIMEOUT + FENCE || (SILENT(0, 2) && SAYS(0, 1, 2)));
            w = 0; i = 0; j = 0; up = 0; links = 0
        }
       }
    /* One may write out another. */
    :: atomic {
        select(w : 0 .. NODES - 1);
        select(v : 0 .. NODES - 1);
        d_step {
            j = (w == v -> 0 : 3 - w - v); /* the third */
            if
            :: w != v && SILENT(w, v) && OTHER_SAYS(w, j, v) && CONFIRMED(w, j) -> assert(v == 2 || steady <= FENCE)
            :: else
            fi;
            w = 0; v = 0; j = 0
        }
       }
    od
}
