/*
 * Inspecting a segment without joining it: its layout, and how many participants live.
 *
 * It maps nothing and changes nothing. So it ends with an answer, regardless of the file's contents and of changes
 * meanwhile.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "segment/locks.h"
#include "segment/plan.h"

enum { ENTRIES_AT_ONCE = 32 };

static bool read_at(int fd, void *target, size_t bytes, uint64_t offset)
{
    return pread(fd, target, bytes, (off_t)offset) == (ssize_t)bytes;
}

/* How many entries of the table belong to a living participant. */
static uint32_t count_living(int fd, const rf_geometry *geometry)
{
    rf_participant entries[ENTRIES_AT_ONCE];
    uint32_t living = 0;
    for (uint32_t at = 0; at < geometry->participants; at += ENTRIES_AT_ONCE) {
        uint32_t count = geometry->participants - at;
        if (count > ENTRIES_AT_ONCE)
            count = ENTRIES_AT_ONCE;
        uint64_t offset = geometry->participants_offset + at * sizeof *entries;
        if (!read_at(fd, entries, count * sizeof *entries, offset))
            break; /* the file was cut short after its size was compared */
        for (uint32_t i = 0; i < count; i++)
            if (rf_load_relaxed(&entries[i].state) != RF_ABSENT &&
                rf_lives(locked_elsewhere(fd, participant_byte(at + i + 1), F_RDLCK),
                         &entries[i].mark))
                living++;
    }
    return living;
}

static rf_status look(int fd, const rf_header *header, rf_segment_view *view)
{
    struct stat status;
    if (header->magic == 0)
        return RF_UNFINISHED;
    if (header->magic != RF_MAGIC)
        return RF_NOT_A_RING;
    view->layout_version = header->layout_version;
    if (view->layout_version == 0)
        return RF_UNFINISHED;
    if (view->layout_version != RF_LAYOUT_VERSION)
        return RF_WRONG_VERSION;
    if (rf_load_relaxed(&header->initialized) !=
        1) /* this was read before the rest, and so is older */
        return RF_UNFINISHED;
    if (fstat(fd, &status) == -1)
        return RF_SYSTEM;
    rf_geometry checked;
    if (rf_check_geometry(&header->geometry, (uint64_t)status.st_size, &checked) != RF_OK)
        return RF_DAMAGED;
    view->geometry = checked;
    view->creator_pid = header->creator_pid;
    view->ring_inode = header->ring_inode;
    /* In a copy of a segment the participants belong to another file. */
    view->participants = header->inode == status.st_ino ? count_living(fd, &checked) : 0;
    return RF_OK;
}

rf_status rf_segment_inspect(int fd, rf_segment_view *view)
{
    memset(view, 0, sizeof *view);
    struct stat status;
    rf_header *header;
    if (fstat(fd, &status) == -1)
        return RF_SYSTEM;
    if (status.st_size == 0)
        return RF_UNFINISHED;
    if ((uint64_t)status.st_size < sizeof *header)
        return RF_NOT_A_RING;
    if (!(header = aligned_alloc(_Alignof(rf_header), sizeof *header)))
        return RF_NO_MEMORY;
    rf_status result = RF_NOT_A_RING;
    /* Read the start alone first. Its statement about the rest then holds when the rest is
     * read. */
    if (read_at(fd, header, offsetof(rf_header, creator_pid), 0)) {
        size_t start = offsetof(rf_header, creator_pid);
        if (read_at(fd, (char *)header + start, sizeof *header - start, start))
            result = look(fd, header, view);
    }
    free(header);
    return result;
}
