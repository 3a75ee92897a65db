from clockworker.executor._core_cy cimport Core, Membership, QueueState, TaskState
