/* The table getters that loaders ask for and of which nothing is played. Not in fake_ze_driver.c:
 * the Level Zero headers declare some of them, each for its own table. */
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

/* Tables of which nothing is played: they exist and are empty. */
#define EMPTY_TABLES(X)                                                                            \
    X(zeGetCommandListExpProcAddrTable)                                                            \
    X(zeGetCommandListProcAddrTable)                                                               \
    X(zeGetCommandQueueProcAddrTable)                                                              \
    X(zeGetContextProcAddrTable)                                                                   \
    X(zeGetDeviceExpProcAddrTable)                                                                 \
    X(zeGetDriverExpProcAddrTable)                                                                 \
    X(zeGetEventExpProcAddrTable)                                                                  \
    X(zeGetEventPoolProcAddrTable)                                                                 \
    X(zeGetEventProcAddrTable)                                                                     \
    X(zeGetExecutableGraphProcAddrTable)                                                           \
    X(zeGetFabricEdgeExpProcAddrTable)                                                             \
    X(zeGetFabricVertexExpProcAddrTable)                                                           \
    X(zeGetFenceProcAddrTable)                                                                     \
    X(zeGetGraphProcAddrTable)                                                                     \
    X(zeGetImageExpProcAddrTable)                                                                  \
    X(zeGetImageProcAddrTable)                                                                     \
    X(zeGetKernelExpProcAddrTable)                                                                 \
    X(zeGetKernelProcAddrTable)                                                                    \
    X(zeGetMemExpProcAddrTable)                                                                    \
    X(zeGetMemProcAddrTable)                                                                       \
    X(zeGetModuleBuildLogProcAddrTable)                                                            \
    X(zeGetModuleProcAddrTable)                                                                    \
    X(zeGetPhysicalMemProcAddrTable)                                                               \
    X(zeGetRTASBuilderExpProcAddrTable)                                                            \
    X(zeGetRTASBuilderProcAddrTable)                                                               \
    X(zeGetRTASParallelOperationExpProcAddrTable)                                                  \
    X(zeGetRTASParallelOperationProcAddrTable)                                                     \
    X(zeGetSamplerProcAddrTable)                                                                   \
    X(zeGetVirtualMemProcAddrTable)                                                                \
    X(zerGetGlobalProcAddrTable)                                                                   \
    X(zesGetDeviceExpProcAddrTable)                                                                \
    X(zesGetDiagnosticsProcAddrTable)                                                              \
    X(zesGetDriverExpProcAddrTable)                                                                \
    X(zesGetFabricPortProcAddrTable)                                                               \
    X(zesGetFanProcAddrTable)                                                                      \
    X(zesGetFirmwareExpProcAddrTable)                                                              \
    X(zesGetFirmwareProcAddrTable)                                                                 \
    X(zesGetLedProcAddrTable)                                                                      \
    X(zesGetOverclockProcAddrTable)                                                                \
    X(zesGetPerformanceFactorProcAddrTable)                                                        \
    X(zesGetPsuProcAddrTable)                                                                      \
    X(zesGetRasExpProcAddrTable)                                                                   \
    X(zesGetRasProcAddrTable)                                                                      \
    X(zesGetSchedulerProcAddrTable)                                                                \
    X(zesGetStandbyProcAddrTable)                                                                  \
    X(zesGetVFManagementExpProcAddrTable)                                                          \
    X(zetGetCommandListExpProcAddrTable)                                                           \
    X(zetGetCommandListProcAddrTable)                                                              \
    X(zetGetContextProcAddrTable)                                                                  \
    X(zetGetDebugProcAddrTable)                                                                    \
    X(zetGetDeviceExpProcAddrTable)                                                                \
    X(zetGetDeviceProcAddrTable)                                                                   \
    X(zetGetKernelProcAddrTable)                                                                   \
    X(zetGetMetricDecoderExpProcAddrTable)                                                         \
    X(zetGetMetricExpProcAddrTable)                                                                \
    X(zetGetMetricGroupExpProcAddrTable)                                                           \
    X(zetGetMetricGroupProcAddrTable)                                                              \
    X(zetGetMetricProcAddrTable)                                                                   \
    X(zetGetMetricProgrammableExpProcAddrTable)                                                    \
    X(zetGetMetricQueryPoolProcAddrTable)                                                          \
    X(zetGetMetricQueryProcAddrTable)                                                              \
    X(zetGetMetricStreamerProcAddrTable)                                                           \
    X(zetGetMetricTracerExpProcAddrTable)                                                          \
    X(zetGetModuleProcAddrTable)                                                                   \
    X(zetGetTracerExpProcAddrTable)
#define EMPTY_TABLE(name)                                                                          \
    EXPORT int name(uint32_t version, void *table);                                                \
    EXPORT int name(uint32_t version, void *table)                                                 \
    {                                                                                              \
        (void)version;                                                                             \
        (void)table;                                                                               \
        return 0;                                                                                  \
    }
EMPTY_TABLES(EMPTY_TABLE)
