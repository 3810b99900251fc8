/* Running a task on several threads. */
#ifndef ESPNET_GQ_TEAM_H
#define ESPNET_GQ_TEAM_H

#include <stdint.h>

namespace gq {

typedef void (*task_t)(const void *what, int64_t index);

/* Run task(what, 0) to task(what, tasks - 1), in any order, on up to `threads` threads:
 * the caller and the library's own.
 *
 * The caller does what no other thread has begun, and waits only for tasks that one has:
 * a thread that the system lets wait costs time only if it holds a task. */
void run_tasks(task_t task, const void *what, int64_t tasks, int threads);

/* The same for work of a millisecond and more: on the team of gq_set_team, where there
 * is one. Its threads spin for milliseconds after operations of PyTorch, which have that
 * length too, and would compete with the library's own. But it lets no call return before
 * each of its threads has taken part, so that beside other programs a call waits for the
 * system to schedule them, some milliseconds. */
void run_long_tasks(task_t task, const void *what, int64_t tasks, int threads);

}  // namespace gq

#endif
