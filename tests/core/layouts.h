/* Layouts of records for the tests of plans and segments. */
#ifndef RF_LAYOUTS_H
#define RF_LAYOUTS_H

#include "check.h"

static inline void plan_ok(const rf_options *options, rf_geometry *geometry)
{
    CHECK_EQUAL(rf_plan(options, geometry), RF_OK);
}

static inline rf_geometry *three_fields(void)
{
    rf_geometry *geometry = geometry_of(RF_UINT8, 3, (uint64_t[]){299, 299, 3});
    geometry->fields = 3;
    strcpy(geometry->field[1].name, "boxes");
    geometry->field[1].dtype = RF_FLOAT32;
    geometry->field[1].rank = 2;
    geometry->field[1].shape[0] = 17;
    geometry->field[1].shape[1] = 4;
    strcpy(geometry->field[2].name, "label");
    geometry->field[2].dtype = RF_INT64;
    return geometry;
}

/* Two fields: a sample of `bytes` bytes, and a label of 8 bytes. */
static inline rf_geometry *image_and_label(uint64_t bytes)
{
    rf_geometry *geometry = geometry_of(RF_UINT8, 1, &bytes);
    geometry->fields = 2;
    strcpy(geometry->field[1].name, "label");
    geometry->field[1].dtype = RF_INT64;
    return geometry;
}

#endif
