/* Incarnations and epochs: a caller that dies and is replaced, while its calls are still running on a server.

   Rings are queues here that lose and tear nothing (ring.pml shows that), with fresh ones for each incarnation. The caller
   numbers its calls from 1 in each of its lives. It may be killed at any time; once it is reaped the supervisor tells the
   server to disconnect, and starts the next, with fresh rings and the next epoch. A server's task takes as long as it likes,
   so a reply may be ready when the caller is long gone, and calls of its successor have the same numbers.

   What must hold: a reply reaches only the incarnation that has asked, and once (assertions); every call of an incarnation
   that lives ends in a reply (no invalid end state).

   Mutations, each of which must be found out: -DSKIP_EPOCH (the server answers on whatever ring there is), -DOLD_RINGS (a
   successor goes on with the rings of the dead). */

#ifndef LIVES
#define LIVES 2
#endif
#ifndef CALLS
#define CALLS 2
#endif

/* The epoch that goes with each message is for the assertions only; nobody acts on it. */
chan requests[LIVES] = [CALLS] of { byte, byte };
chan replies[LIVES] = [CALLS * LIVES] of { byte, byte };
chan told = [2 * LIVES] of { bit, byte }; /* the server, by the supervisor: 1 connect, 0 disconnect; epoch */
bit killed[LIVES], gone[LIVES];

#ifdef OLD_RINGS
#define RING(epoch) 0
#else
#define RING(epoch) (epoch)
#endif

bit connected; /* of the server: whether there is a caller, and which */
byte current;

proctype Caller(byte epoch) {
    byte sent, answered, asker, number;
    bit have[CALLS + 1];
    {
        do
        :: sent < CALLS -> sent++; requests[RING(epoch)]!epoch,sent
        :: replies[RING(epoch)]?asker,number ->
           assert(asker == epoch);
           assert(number >= 1 && number <= sent && !have[number]);
           have[number] = 1;
           answered++
        :: answered == CALLS -> break
        od;
        gone[epoch] = 1
    } unless { atomic { killed[epoch] && !gone[epoch] -> gone[epoch] = 1 } }
}

proctype Server() {
    byte asker, number;
end:
    do
    :: told?connected,current /* tasks stay: one may be past the point where it can be cancelled */
    :: atomic { connected && nempty(requests[RING(current)]) ->
           requests[RING(current)]?asker,number;
           run Task(asker, number)
       }
    od
}

proctype Task(byte asker; byte number) {
    atomic {
        if
#ifdef SKIP_EPOCH
        :: connected -> replies[RING(current)]!asker,number
        :: !connected
#else
        :: connected && current == asker -> replies[RING(current)]!asker,number
        :: !(connected && current == asker)
#endif
        fi
    }
}

proctype Supervisor() {
    byte life;
    do
    :: life < LIVES ->
       told!1,life;
       run Caller(life);
       if
       :: life < LIVES - 1 ->
          killed[life] = 1; /* at any time, even after its end */
          gone[life]; /* reaped */
          told!0,life
       :: else
       fi;
       life++
    :: life == LIVES -> break
    od
}

init {
    atomic {
        run Server();
        run Supervisor()
    }
}
