# How every target of the project is made: one place for warnings, sanitizers and naming.

# offering_library(<name> SOURCES a.c b.c [DEPENDS other ...] [LINK external ...])
# A static library `offering_<name>`; DEPENDS names our own libraries without the prefix.
function(offering_library name)
    cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LINK" ${ARGN})
    add_library(offering_${name} STATIC ${ARG_SOURCES})
    target_link_libraries(offering_${name} PUBLIC offering_options)
    foreach(dependency IN LISTS ARG_DEPENDS)
        target_link_libraries(offering_${name} PUBLIC offering_${dependency})
    endforeach()
    target_link_libraries(offering_${name} PUBLIC ${ARG_LINK})
endfunction()

# offering_plain_copy(<name>)
# `offering_<name>_plain`: the library once more, without sanitizers where the build has them, for tests
# whose subject is arithmetic over minutes. Call it in the library's own directory, whose flags of single
# files then hold for both. A program links one of the two.
function(offering_plain_copy name)
    if(NOT OFFERING_SANITIZE)
        add_library(offering_${name}_plain ALIAS offering_${name})
        return()
    endif()
    get_target_property(sources offering_${name} SOURCES)
    get_target_property(libraries offering_${name} LINK_LIBRARIES)
    add_library(offering_${name}_plain STATIC EXCLUDE_FROM_ALL ${sources})
    target_link_libraries(offering_${name}_plain PUBLIC ${libraries})
    set_target_properties(offering_${name}_plain PROPERTIES OFFERING_PLAIN ON)
endfunction()

# offering_program(<name> SOURCES main.c DEPENDS lib ...)
function(offering_program name)
    cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
    add_executable(${name} ${ARG_SOURCES})
    foreach(dependency IN LISTS ARG_DEPENDS)
        target_link_libraries(${name} PRIVATE offering_${dependency})
    endforeach()
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
    install(TARGETS ${name} RUNTIME DESTINATION bin)
endfunction()

# Every tests/unit/<module>/test_*.c is a cmocka program linked with the library of that module.
function(offering_unit_tests module library)
    file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/unit/${module}/test_*.c)
    string(REPLACE "/" "_" prefix ${module})
    foreach(source IN LISTS sources)
        get_filename_component(stem ${source} NAME_WE)
        set(target ${prefix}_${stem})
        add_executable(${target} ${source})
        target_link_libraries(${target} PRIVATE offering_${library} PkgConfig::CMOCKA)
        target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
        target_compile_definitions(${target} PRIVATE
            OFR_TEST_SOURCE_DIR="${CMAKE_SOURCE_DIR}" OFR_TEST_BINARY_DIR="${CMAKE_BINARY_DIR}")
        set_target_properties(${target} PROPERTIES
            RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/unit)
        add_test(NAME unit.${prefix}.${stem} COMMAND ${target})
        set_tests_properties(unit.${prefix}.${stem} PROPERTIES
            SKIP_RETURN_CODE 77 TIMEOUT 1200 LABELS unit)
    endforeach()
endfunction()

# Every <folder>/test_*.py runs as one test with the project's Python; programs are found through
# OFFERING_BIN_DIR. They use the CPU alone unless they say otherwise (OFFERING_PLAN): what is measured
# on a loaded machine is no basis for a test. Exit 77 means "cannot run here" and is counted as skipped.
function(offering_python_tests folder label)
    file(GLOB scripts CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/test_*.py)
    foreach(script IN LISTS scripts)
        get_filename_component(stem ${script} NAME_WE)
        # A program that is not built has no process tests.
        if(stem MATCHES "^test_(supervisor|executive)" AND NOT TARGET supervisor)
            continue()
        endif()
        add_test(NAME ${label}.${stem} COMMAND ${OFFERING_PYTHON} ${script})
        set_tests_properties(${label}.${stem} PROPERTIES
            SKIP_RETURN_CODE 77 TIMEOUT 3600 LABELS ${label}
            ENVIRONMENT "OFFERING_BIN_DIR=${CMAKE_BINARY_DIR}/bin;OFFERING_BUILD_DIR=${CMAKE_BINARY_DIR};OFFERING_SOURCE_DIR=${CMAKE_SOURCE_DIR};PYTHONPATH=${CMAKE_SOURCE_DIR}/tests;PYTHONDONTWRITEBYTECODE=1;OFFERING_PLAN=cpu")
    endforeach()
endfunction()
