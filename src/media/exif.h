/* The orientation that a picture file states. */
#ifndef OMNI_MEDIA_EXIF_H
#define OMNI_MEDIA_EXIF_H

#include <stddef.h>
#include <stdint.h>

#include "media/budget.h"
#include "media/orientation.h"

/* As Pillow's ImageOps.exif_transpose finds it: the tag Orientation of the EXIF data of a JPEG, PNG or WebP file, or of a TIFF file itself; without
 * one, tiff:Orientation in the XMP text of a JPEG, PNG or WebP file. PNG has EXIF data in eXIf or, where it has none of these, in the text that
 * ImageMagick calls "Raw profile type exif"; both texts may be compressed. Pillow reads neither from GIF. Damaged data states nothing.
 * The name is for errors: OMNI_ERR_MEMORY, or OMNI_ERR_LIMIT where the budget has no room for a text (1 MiB is read of each at most). */
omni_status exif_orientation(const uint8_t *file, size_t size, const char *name, budget *b, orientation *out, omni_error *err);

#endif
