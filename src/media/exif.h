/* The orientation that a picture file states. */
#ifndef OMNI_MEDIA_EXIF_H
#define OMNI_MEDIA_EXIF_H

#include <stddef.h>
#include <stdint.h>

#include "media/orientation.h"

/* As Pillow's ImageOps.exif_transpose finds it: the tag Orientation of the EXIF data of a JPEG, PNG (eXIf) or WebP file, or of a TIFF file itself;
 * without one, tiff:Orientation in the XMP text of a JPEG, WebP or (not compressed) PNG file. Damaged data states nothing. */
orientation exif_orientation(const uint8_t *file, size_t size);

#endif
