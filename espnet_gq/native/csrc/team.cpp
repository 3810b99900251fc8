#include "team.h"

#include <pthread.h>

#include "api.h"

namespace {

enum { MAX_THREADS = 256 };

/* GOMP_parallel of the OpenMP runtime that PyTorch runs on. Without it, each call
 * starts threads. */
void (*team)(void (*)(void *), void *, unsigned, unsigned) = nullptr;

struct work_t {
    void (*task)(const void *what, int64_t index);
    const void *what;
    int64_t tasks, next;
};

/* Take tasks until none is left; every thread of a team runs this. */
void work(void *arg) {
    work_t *w = (work_t *)arg;
    int64_t index;
    while ((index = __atomic_fetch_add(&w->next, 1, __ATOMIC_RELAXED)) < w->tasks)
        w->task(w->what, index);
}

void *work_thread(void *arg) {
    work(arg);
    return nullptr;
}

}  // namespace

void gq_set_team(void (*gomp_parallel)(void (*)(void *), void *, unsigned, unsigned)) {
    team = gomp_parallel;
}

namespace gq {

void run_tasks(void (*task)(const void *, int64_t), const void *what, int64_t tasks,
               int threads) {
    work_t w = {task, what, tasks, 0};
    pthread_t ids[MAX_THREADS];
    int started = 0;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > 1 && tasks > 1) {
        if (team) { /* always the whole team: another size would restart it */
            team(work, &w, (unsigned)threads, 0);
            return;
        }
        if (threads > tasks) threads = (int)tasks;
        while (started < threads - 1 &&
               pthread_create(&ids[started], nullptr, work_thread, &w) == 0)
            ++started;
    }
    work(&w);
    while (started > 0) pthread_join(ids[--started], nullptr);
}

}  // namespace gq
