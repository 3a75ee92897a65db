/* Credit by depth: whatever calls whatever, nobody waits for ever.

   Three shards. At each something begins that nobody has asked for (depth 0). What runs does nothing, or one thing: a call, a
   one-way request or a stream to any other shard, a function in a thread, or two things at once (a task group, `map`). What
   serves a request does the same, one deeper; who reads a stream, and who yields to it, do the same meanwhile; BUDGET things
   altogether. A request takes credit of its lane, which is that of sender, receiver and depth, and waits until there is some; a
   function takes a thread of its shard and depth. From DEEPEST on all have one depth, and there nothing waits.

   One thing after the other is left out, since nothing is held from one to the next; so are
   queues (each has lanes of its own), rings (replies do not wait, and room comes by itself), deadlines and deaths (which
   only end things), more than one item of a stream (and none that is under way while its reader does something else: a window
   makes generators wait less), who is served first.

   Must hold: every process reaches its end, so there is no state in which some are left and none can go on (Spin's invalid
   end states).

   Mutations, each of which Spin must find out:
     ONE_CLASS            credit of all depths is alike
     STREAM_HOLDS         a stream holds its credit as long as it is open
     STREAMS_WAIT         who opens one stream too many waits for another to end
     DEEPEST_WAITS        calls at the greatest depth wait for credit
     ONE_POOL             threads of all depths are alike
     THREAD_NOT_DEEPER    what a function calls has the depth of who called the function
*/

#ifndef SHARDS
#define SHARDS 3
#endif
#ifndef CREDIT
#define CREDIT 1
#endif
#ifndef THREADS
#define THREADS 1
#endif
#ifndef STREAMS
#define STREAMS 2
#endif
#ifndef DEEPEST
#define DEEPEST 3
#endif
#ifndef ROOTS
#define ROOTS 2
#endif
#ifndef BUDGET
#define BUDGET 3
#endif

#define CLASSES (DEEPEST + 1)
#define NONE 255

#ifdef ONE_CLASS
#define CLASS(depth) 0
#else
#define CLASS(depth) ((depth) < DEEPEST -> (depth) : DEEPEST)
#endif
#ifdef ONE_POOL
#define POOL(depth) 0
#else
#define POOL(depth) ((depth) < DEEPEST -> (depth) : DEEPEST)
#endif
#ifdef DEEPEST_WAITS
#define MAY_WAIT(depth) true
#else
#define MAY_WAIT(depth) ((depth) < DEEPEST)
#endif
#ifdef THREAD_NOT_DEEPER
#define WITHIN_THREAD(depth) depth
#else
#define WITHIN_THREAD(depth) (depth + 1)
#endif

#define LANE(from, to, depth) (((from) * SHARDS + (to)) * CLASSES + CLASS(depth))

byte taken[SHARDS * SHARDS * CLASSES];  /* credit in use, by lane */
byte threads[SHARDS * CLASSES];         /* in use */
byte streams[SHARDS * SHARDS];          /* open, by sender and receiver */
byte budget = BUDGET;

chan nobody = [0] of { bit };

/* What runs at `here`. done: who waits for it, or nobody. back: the lane whose credit it gives back at its end (one way). */
proctype Work(byte here; byte depth; chan done; byte back)
{
    byte to = NONE, lane, tasks = 0;
    chan reply = [0] of { bit };  /* of a call; of a stream: 1 is an item, 0 the end */
    chan within = [0] of { bit };
    bit more;

    atomic {
        if
        :: skip  /* nothing */
        :: budget > 0 -> budget--; tasks = 2
        :: budget > 0 -> budget--; to = (here + 1) % SHARDS; lane = LANE(here, to, depth)
        :: budget > 0 -> budget--; to = (here + 2) % SHARDS; lane = LANE(here, to, depth)
        :: budget > 0 -> budget--; to = here; lane = here * CLASSES + POOL(depth)
        fi;
        if
        :: tasks == 2 ->
           run Work(here, depth, reply, NONE); run Work(here, depth, reply, NONE)
        :: else -> skip
        fi
    }
    if
    :: tasks == 2 -> reply?_; reply?_
    :: to == NONE && tasks == 0 -> skip
    :: to == here ->  /* a function in a thread */
       if
       :: atomic { threads[lane] < THREADS -> threads[lane]++; run Work(here, WITHIN_THREAD(depth), reply, NONE); }
          atomic { reply?_; threads[lane]--; }
       :: threads[lane] >= THREADS && !MAY_WAIT(depth) -> skip
       fi
    :: to != here && to != NONE ->
       if
       :: atomic { taken[lane] < CREDIT ->
            taken[lane]++;
            if
            :: run Work(to, depth + 1, reply, NONE); to = here  /* a call */
            :: run Work(to, depth + 1, nobody, lane); to = NONE  /* one way */
            :: true  /* a stream */
            fi;
          }
          if
          :: to == here -> atomic { reply?_; taken[lane]--; }
          :: to == NONE -> skip
          :: else ->
#ifdef STREAMS_WAIT
             atomic { streams[here * SHARDS + to] < STREAMS -> streams[here * SHARDS + to]++; }
#else
             if
             :: atomic { streams[here * SHARDS + to] < STREAMS -> streams[here * SHARDS + to]++; }
             :: atomic { streams[here * SHARDS + to] >= STREAMS -> taken[lane]--; goto end; }
             fi;
#endif
             run Generator(to, depth + 1, reply, lane);
             reply?more;
             if
             :: more -> run Work(here, depth, within, NONE); within?_; reply?more  /* it does something before it reads on */
             :: else -> skip
             fi;
             atomic {
#ifdef STREAM_HOLDS
                taken[lane]--;
#endif
                streams[here * SHARDS + to]--;
             }
          fi
       :: taken[lane] >= CREDIT && !MAY_WAIT(depth) -> skip  /* ChannelFull */
       fi
    fi;
end:
    if
    :: back != NONE -> taken[back]--
    :: back == NONE && done != nobody -> done!0
    :: else -> skip
    fi
}

/* What yields, at `here`. lane: whose credit it gives back as soon as it has begun. */
proctype Generator(byte here; byte depth; chan items; byte lane)
{
    chan reply = [0] of { bit };

    atomic {
#ifndef STREAM_HOLDS
        taken[lane]--;
#endif
        run Work(here, depth, reply, NONE);
    }
    reply?_;
    if
    :: items!1 -> items!0
    :: items!0
    fi
}

init {
    byte root = 0;
    atomic {
        do
        :: root < ROOTS -> run Work(root % SHARDS, 0, nobody, NONE); root++
        :: else -> break
        od
    }
}
