/* The instruction sets of this machine. */
#ifndef ESPNET_GQ_DISPATCH_H
#define ESPNET_GQ_DISPATCH_H

#include "instruction_set.h"

namespace gq {

/* The instruction set that an `isa` of api.h names, NULL where there is none. */
const instruction_set *instructions(int isa);

}  // namespace gq

#endif
