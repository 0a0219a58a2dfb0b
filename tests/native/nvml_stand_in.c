/* A library with NVML's own interface, driven by a text file, so that the real binding can be tested without a GPU.
 *
 * Compiled at test time against NVIDIA's header, which checks every signature. The file named by NVML_STAND_IN is
 * read again on every call; one line for each GPU:
 *
 *     UUID POWER_MW ENERGY_MJ STATUS
 *
 * A negative power or energy is not supported; STATUS is what every reading of the GPU returns (0: success). The
 * first line may be "init STATUS": what initialising returns. Without the file there is no driver.
 */
#include <nvml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GPUS_MAX 8

typedef struct {
    char uuid[64];
    long long power_mw;
    long long energy_mj;
    int status;
} Gpu;

static int references = 0;

static nvmlReturn_t load(Gpu *gpus, int *count) {
    const char *path = getenv("NVML_STAND_IN");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    *count = 0;
    if (!file) return NVML_ERROR_DRIVER_NOT_LOADED;
    while (fgets(line, sizeof line, file) && *count < GPUS_MAX) {
        int status;
        if (sscanf(line, "init %d", &status) == 1) {
            if (status) { fclose(file); return (nvmlReturn_t)status; }
            continue;
        }
        Gpu *gpu = &gpus[*count];
        if (sscanf(line, "%63s %lld %lld %d", gpu->uuid, &gpu->power_mw, &gpu->energy_mj, &gpu->status) == 4)
            (*count)++;
    }
    fclose(file);
    return NVML_SUCCESS;
}

/* A handle is the GPU's place plus one; it is looked up again on every call. */
static nvmlReturn_t find(nvmlDevice_t device, Gpu *found) {
    Gpu gpus[GPUS_MAX];
    int count;
    long place = (long)device - 1;
    if (!references) return NVML_ERROR_UNINITIALIZED;
    nvmlReturn_t result = load(gpus, &count);
    if (result != NVML_SUCCESS) return result;
    if (place < 0 || place >= count) return NVML_ERROR_GPU_IS_LOST;
    *found = gpus[place];
    return (nvmlReturn_t)found->status;
}

nvmlReturn_t DECLDIR nvmlInitWithFlags(unsigned int flags) {
    Gpu gpus[GPUS_MAX];
    int count;
    (void)flags;
    nvmlReturn_t result = load(gpus, &count);
    if (result == NVML_SUCCESS) references++;
    return result;
}

nvmlReturn_t DECLDIR nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

nvmlReturn_t DECLDIR nvmlShutdown(void) {
    if (!references) return NVML_ERROR_UNINITIALIZED;
    references--;
    return NVML_SUCCESS;
}

const DECLDIR char *nvmlErrorString(nvmlReturn_t result) { (void)result; return "stand-in error"; }

nvmlReturn_t DECLDIR nvmlDeviceGetCount_v2(unsigned int *devices) {
    Gpu gpus[GPUS_MAX];
    int count;
    if (!references) return NVML_ERROR_UNINITIALIZED;
    nvmlReturn_t result = load(gpus, &count);
    *devices = (unsigned int)count;
    return result;
}

nvmlReturn_t DECLDIR nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    unsigned int count;
    nvmlReturn_t result = nvmlDeviceGetCount_v2(&count);
    if (result != NVML_SUCCESS) return result;
    if (index >= count) return NVML_ERROR_INVALID_ARGUMENT;
    *device = (nvmlDevice_t)(long)(index + 1);
    return NVML_SUCCESS;
}

nvmlReturn_t DECLDIR nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    Gpu gpus[GPUS_MAX];
    int count;
    if (!references) return NVML_ERROR_UNINITIALIZED;
    nvmlReturn_t result = load(gpus, &count);
    if (result != NVML_SUCCESS) return result;
    for (int place = 0; place < count; place++)
        if (!strcmp(gpus[place].uuid, uuid)) {
            *device = (nvmlDevice_t)(long)(place + 1);
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t DECLDIR nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    Gpu gpu;
    nvmlReturn_t result = find(device, &gpu);
    if (result != NVML_SUCCESS) return result;
    snprintf(uuid, length, "%s", gpu.uuid);
    return NVML_SUCCESS;
}

nvmlReturn_t DECLDIR nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power) {
    Gpu gpu;
    nvmlReturn_t result = find(device, &gpu);
    if (result != NVML_SUCCESS) return result;
    if (gpu.power_mw < 0) return NVML_ERROR_NOT_SUPPORTED;
    *power = (unsigned int)gpu.power_mw;
    return NVML_SUCCESS;
}

nvmlReturn_t DECLDIR nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *energy) {
    Gpu gpu;
    nvmlReturn_t result = find(device, &gpu);
    if (result != NVML_SUCCESS) return result;
    if (gpu.energy_mj < 0) return NVML_ERROR_NOT_SUPPORTED;
    *energy = (unsigned long long)gpu.energy_mj;
    return NVML_SUCCESS;
}
