# cmake -DOUTPUT=x.c -DPREFIX=ofr_opencl_source_ -DFILES=a.cl;b.cl -P EmbedText.cmake
# Writes each file as a NUL-terminated array named <PREFIX><name without extension>.
set(text "/* Generated from the files named below; do not edit. */\n")
foreach(file IN LISTS FILES)
    get_filename_component(name ${file} NAME_WE)
    file(READ ${file} bytes HEX)
    string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
    string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)"
        "\\1\n    " bytes "${bytes}")
    string(APPEND text
        "/* ${name} */\nextern const char ${PREFIX}${name}[];\nconst char ${PREFIX}${name}[] = {\n    ${bytes}0};\n")
endforeach()
file(WRITE ${OUTPUT} "${text}")
