/* The ring and the doorbell between two processes, with the store buffers of the processor, and death at any store.

   What is modelled, name by name, is ipc/rings/_ring_cy.py, _doorbell_cy.py and _connection_cy.py: a producer pushes MSGS frames
   of two words into a ring for CAP frames, sleeps when the ring is full, and is told of room; a consumer pops, and sleeps when it
   is empty. The producer may ring ahead of the last frame, AHEAD times (where others follow, their bells make up for one that is
   lost: so it is of all that may go wrong). Who is rung reads the eventfd before it sleeps again, so it must mean nothing but
   news. Either may be killed between any two of its steps; then the reaper tells the other, by a socket on which it sleeps too.

   A turn. The producer tells of each frame as it pushes it, and looks whether the consumer sleeps, without a fence: what that look
   does not see it owes, and makes sure of once for all frames, after a fence, when its turn ends. It may push any number of frames
   between two fences. The turn of the last one may also fail (FAILURES times): then what is owed is made sure of in the next,
   which comes at once. What is sent outside of turns is made sure of there and then. Who closes its end makes sure before.

   The consumer looks for a producer that waits for room only where that is possible: when more than half of the ring (here: all
   of it) has been published beyond the head that it had when it last looked, after a fence.

   Memory. A store enters the buffer of its process and reaches memory later, in order (x86-TSO). With -DWEAK (aarch64) only a
   release store keeps behind what was stored before it; a plain store may overtake. A full fence waits until the buffer is
   empty. Every word has one writer, which never loads it back, so nothing has to be forwarded from the buffer. Loads are
   done in order: they are acquire loads. A killed process's buffer still drains: it is the processor's. The eventfd is
   the kernel's, and not in the buffers.

   What must hold: a frame is whole and the next in order (assertions); whoever was killed, what it had published is all taken;
   and nobody sleeps on news for ever, which would be an invalid end state. There is no fallback poll here.

   Mutations, each of which must be found out: -DTAIL_FIRST, -DNEWS_FIRST, -DNO_FENCE_TURN, -DNO_FENCE_SLEEP, -DNO_FENCE_STALL,
   -DNO_FENCE_STALLED, -DDEAD_NOT_TOLD, -DLOOK_BEFORE_SLEEP, -DAHEAD_FOR_THE_NEXT, -DANSWERED_IN_SLEEP; of the turn, -DSURE_FIRST
   (before the frame is published), -DNOT_AT_THE_END, -DFORGOTTEN_BY_FAILURE, -DNOT_OUTSIDE, -DNOT_AT_CLOSE; and of room,
   -DSELDOM_STALLED, -DROOM_NOT_SURE. */

#ifndef MSGS
#define MSGS 2
#endif
#ifndef CAP
#define CAP 1
#endif
#ifndef AHEAD
#define AHEAD 1
#endif
#ifndef FAILURES
#define FAILURES 1
#endif
#ifndef BUFFER
#define BUFFER 3
#endif

#define P 0
#define C 1

#define TAIL 0
#define HEAD 1
#define STALLS 2
#define NEWS(of) (3 + (of))   /* in the doorbell of `of`, written by the other */
#define SLEEPS(of) (5 + (of)) /* written by `of` */
#define DATA(frame, word) (7 + 2 * ((frame) % CAP) + (word))
#define WORDS (7 + 2 * CAP)

byte mem[WORDS];
chan buffer[2] = [BUFFER] of { bit, byte, byte }; /* 1: release; where; what */
bit eventfd[2], told[2];
bit killed[2], gone[2], dead[2]; /* told to die; ended; known to the other as dead */

#define release(me, where, what) buffer[me]!1,where,what
#define plain(me, where, what) buffer[me]!0,where,what
#define fence(me) empty(buffer[me])

proctype Drain(bit me) {
    byte where, what;
end:
    do
    :: atomic { buffer[me]?_,where,what -> mem[where] = what }
#ifdef WEAK
    :: atomic { buffer[me]??0,where,what -> mem[where] = what }
#endif
    od
}

inline look_whether_it_sleeps(me, peer) {
    d_step {
        value = mem[SLEEPS(peer)];
        if
        :: (value & 1) && value != rung_for -> rung_for = value; value = 1
        :: else -> value = 0
        fi
    }
    if
    :: value -> d_step { eventfd[peer] = 1; value = 0 }
    :: else
    fi
}

inline tell(me, peer) {
    news++;
    release(me, NEWS(peer), news);
    look_whether_it_sleeps(me, peer);
    owes = 1
}

inline make_sure(me, peer) {
    owes = 0;
#ifndef NO_FENCE_TURN
    fence(me);
#endif
    look_whether_it_sleeps(me, peer)
}

inline ring_ahead(me, peer) {
    d_step {
        value = mem[SLEEPS(peer)];
        if
#ifdef AHEAD_FOR_THE_NEXT
        :: (value & 1) && value != rung_for -> rung_for = value + 2; value = 1
#else
        :: (value & 1) && value != rung_for -> rung_for = value; value = 1
#endif
        :: else -> value = 0
        fi
    }
    if
    :: value -> d_step { eventfd[peer] = 1; value = 0 }
    :: else
    fi
}

inline answer(me) {
    d_step {
        if
        :: rung -> rung = 0; eventfd[me] = 0
        :: else
        fi
    }
}

inline sleep(me) {
#ifndef ANSWERED_IN_SLEEP
    answer(me);
#endif
#ifdef LOOK_BEFORE_SLEEP
    value = mem[NEWS(me)];
#endif
    sleeps++;
    release(me, SLEEPS(me), sleeps);
#ifndef NO_FENCE_SLEEP
    fence(me);
#endif
#ifndef LOOK_BEFORE_SLEEP
    value = mem[NEWS(me)];
#endif
    if
    :: value != seen -> value = 0
    :: else ->
       value = 0;
#ifdef ANSWERED_IN_SLEEP
       answer(me);
#endif
       if
       :: atomic { eventfd[me] -> rung = 1 }
       :: atomic { told[me] -> told[me] = 0 }
       fi
    fi;
    sleeps++;
    release(me, SLEEPS(me), sleeps)
}

inline push() {
#ifdef TAIL_FIRST
    release(P, TAIL, tail + 1);
#endif
#ifdef NEWS_FIRST
    tell(P, C);
#endif
#ifdef SURE_FIRST
    make_sure(P, C);
#endif
    plain(P, DATA(tail, 0), tail + 1);
    plain(P, DATA(tail, 1), tail + 1);
#ifndef TAIL_FIRST
    release(P, TAIL, tail + 1);
#endif
    tail++;
#ifndef NEWS_FIRST
    tell(P, C);
#endif
#ifdef SURE_FIRST
    owes = 0;
#endif
    if
    :: true /* in a turn, which makes sure when it ends */
    :: tail == MSGS -> /* outside of one */
#ifdef NOT_OUTSIDE
       owes = 0
#else
       make_sure(P, C)
#endif
    fi
}

proctype Producer() {
    byte tail, head, stalls, news, sleeps, seen, rung_for, value;
    bit owes, over, rung;
    byte ahead, failures;
    {
        do /* turns */
        :: seen = mem[NEWS(P)];
           over = dead[C];
           do
           :: tail == MSGS -> break
           :: tail < MSGS && tail - head < CAP -> push()
           :: tail < MSGS && tail - head == CAP ->
              head = mem[HEAD];
              if
              :: tail - head < CAP
              :: else ->
                 stalls++;
                 release(P, STALLS, stalls);
#ifndef NO_FENCE_STALL
                 fence(P);
#endif
                 head = mem[HEAD];
                 if
                 :: tail - head < CAP
                 :: else -> break
                 fi
              fi
           :: owes && tail == MSGS && failures < FAILURES -> failures++; goto failed
           :: tail == MSGS - 1 && !owes && ahead < AHEAD -> ahead++; ring_ahead(P, C)
           od;
#ifndef NOT_AT_THE_END
           if
           :: owes -> make_sure(P, C)
           :: owes && tail == MSGS -> goto closing
           :: !owes
           fi;
#endif
           if
           :: tail == MSGS || over -> break
           :: else
           fi;
           sleep(P);
           goto next;
failed:
#ifdef FORGOTTEN_BY_FAILURE
           owes = 0;
#endif
           skip;
next:
           skip
        od;
closing:
#ifndef NOT_AT_CLOSE
        if
        :: owes -> make_sure(P, C)
        :: else
        fi;
#endif
        gone[P] = 1
    } unless { atomic { killed[P] && !gone[P] -> gone[P] = 1 } }
}

proctype Consumer() {
    byte tail, head, looked_at, stalls_seen, news, sleeps, seen, rung_for, value;
    bit owes, over, rung;
    {
        do
        :: seen = mem[NEWS(C)];
           over = dead[P]; /* before the last look: what it had published is still taken in */
           do
           :: head == tail ->
              tail = mem[TAIL];
              if
              :: tail == head -> break
              :: else -> assert(tail > head && tail - head <= CAP)
              fi
           :: head != tail ->
              assert(mem[DATA(head, 0)] == head + 1);
              assert(mem[DATA(head, 1)] == head + 1);
              head++;
              release(C, HEAD, head)
           od;
           if
#ifdef SELDOM_STALLED
           :: tail - looked_at <= CAP
#else
           :: tail - looked_at < CAP /* nobody can be waiting, or there will be news */
#endif
           :: else ->
#ifndef NO_FENCE_STALLED
              fence(C);
#endif
              looked_at = head;
              if
              :: d_step { mem[STALLS] != stalls_seen -> stalls_seen = mem[STALLS] }; tell(C, P)
              :: mem[STALLS] == stalls_seen
              fi
           fi;
#ifndef ROOM_NOT_SURE
           if
           :: owes -> make_sure(C, P)
           :: else
           fi;
#endif
           if
           :: head == MSGS -> break
           :: head < MSGS && over -> assert(mem[TAIL] == head); break
           :: else
           fi;
           sleep(C)
        od;
        gone[C] = 1
    } unless { atomic { killed[C] && !gone[C] -> gone[C] = 1 } }
}

proctype Reaper() {
    byte one;
    if
    :: goto end /* nobody dies, and nobody is told */
    :: one = P
    :: one = C
    fi;
    if
    :: killed[one] = 1
    :: gone[one] /* by itself */
    fi;
    gone[one];
    empty(buffer[one]);
    dead[one] = 1;
#ifndef DEAD_NOT_TOLD
    told[1 - one] = 1;
#endif
end:
    skip
}

init {
    atomic {
        run Drain(P);
        run Drain(C);
        run Producer();
        run Consumer();
        run Reaper()
    }
}
