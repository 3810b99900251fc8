/* Running a task on several threads: on PyTorch's OpenMP team where there is one.
 *
 * Threads of our own would compete with those, which spin between two operations. */
#ifndef ESPNET_GQ_TEAM_H
#define ESPNET_GQ_TEAM_H

#include <pthread.h>
#include <stdint.h>

#define MAX_THREADS 256

/* GOMP_parallel of the OpenMP runtime that PyTorch runs on. NULL: there is none, and
 * each call starts threads. */
typedef void (*team_t)(void (*)(void *), void *, unsigned, unsigned);
static team_t team = NULL;

typedef struct {
    void (*task)(const void *what, int64_t index);
    const void *what;
    int64_t tasks, next;
} work_t;

/* Take tasks until none is left; every thread of a team runs this. */
static void work(void *arg) {
    work_t *w = (work_t *)arg;
    int64_t index;
    while ((index = __atomic_fetch_add(&w->next, 1, __ATOMIC_RELAXED)) < w->tasks)
        w->task(w->what, index);
}

static void *work_thread(void *arg) {
    work(arg);
    return NULL;
}

/* Run task(what, 0) to task(what, tasks - 1), in any order, on up to `threads`. */
static void run_tasks(void (*task)(const void *, int64_t), const void *what,
                      int64_t tasks, int threads) {
    work_t w = {task, what, tasks, 0};
    pthread_t ids[MAX_THREADS];
    int started = 0;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > 1 && tasks > 1) {
        if (team) { /* always the whole team: another size would start it anew */
            team(work, &w, (unsigned)threads, 0);
            return;
        }
        if (threads > tasks) threads = (int)tasks;
        while (started < threads - 1 &&
               pthread_create(&ids[started], NULL, work_thread, &w) == 0)
            ++started;
    }
    work(&w);
    while (started > 0) pthread_join(ids[--started], NULL);
}

#endif
