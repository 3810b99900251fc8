/* Running a task on several threads: on PyTorch's OpenMP team where there is one.
 *
 * Threads of our own would compete with those, which spin between two operations.
 */
#ifndef ESPNET_GQ_TEAM_H
#define ESPNET_GQ_TEAM_H

#include <stdint.h>

namespace gq {

/* Run task(what, 0) to task(what, tasks - 1), in any order, on up to `threads`. */
void run_tasks(void (*task)(const void *what, int64_t index), const void *what,
               int64_t tasks, int threads);

}  // namespace gq

#endif
